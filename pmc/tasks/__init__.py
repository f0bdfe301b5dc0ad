"""The namespaces pm and vm. Names are as they are spelled: without auto_dash_names, pm.ready_drbd would not be
found."""

from invoke.collection import Collection

from pmc.tasks import backups, balance, failover, ha, pm, prune, repair, restore, verify, vm

nodes = Collection.from_module(pm, auto_dash_names=False)
nodes.add_task(failover.evacuate)
nodes.add_task(balance.balance)
nodes.add_task(verify.verify_, "verify")
vms = Collection.from_module(vm, auto_dash_names=False)
for each in (
    failover.failover, ha.peer, repair.repair, backups.backup, backups.backups, backups.verify_backup, restore.restore,
    prune.prune,
):  # fmt: skip
    vms.add_task(each)

ns = Collection(auto_dash_names=False)
ns.add_collection(nodes)
ns.add_collection(vms)
