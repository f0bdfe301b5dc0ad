"""The namespaces pm and vm, and what is in neither. Names are as they are spelled: without auto_dash_names,
pm.ready_drbd would not be found."""

from invoke.collection import Collection

from pmc.tasks import balance, failover, pm, shipped, verify, vm

nodes = Collection.from_module(pm, auto_dash_names=False)
nodes.add_task(failover.evacuate)
nodes.add_task(balance.balance)
nodes.add_task(verify.verify_, "verify")
vms = Collection.from_module(vm, auto_dash_names=False)

ns = Collection(auto_dash_names=False)
ns.add_collection(nodes)
ns.add_collection(vms)
ns.add_task(shipped.conf)
ns.add_task(shipped.doc)
