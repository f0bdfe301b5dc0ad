"""The namespaces pm and vm. Names are as they are spelled: without auto_dash_names, pm.ready_drbd would not be
found."""

from invoke.collection import Collection

from pmc.tasks import pm, verify, vm

ns = Collection(auto_dash_names=False)
nodes = Collection.from_module(pm, auto_dash_names=False)
nodes.add_task(verify.verify_, "verify")
ns.add_collection(nodes)
ns.add_collection(Collection.from_module(vm, auto_dash_names=False))
