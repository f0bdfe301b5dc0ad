"""The namespaces pm and vm. Names are as they are spelled: without auto_dash_names, pm.ready_drbd would not be
found."""

from invoke.collection import Collection

from pmc.tasks import ha, pm, vm

ns = Collection(auto_dash_names=False)
ns.add_collection(Collection.from_module(pm, auto_dash_names=False))
machines = Collection.from_module(vm, auto_dash_names=False)
machines.add_task(ha.peer)
ns.add_collection(machines)
