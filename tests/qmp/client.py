"""Commands two VMs through QEMU's own QMP client, as a program written for QEMU does.

client.py move SOURCE DESTINATION URI precopy|postcopy
    moves the guest and prints one line of JSON: what was seen on the way
client.py quit MONITOR...
    ends VMs

SOURCE, DESTINATION and MONITOR are paths of monitors' Unix sockets.
"""

import asyncio
import json
import sys

from qemu.qmp import EventListener, ExecuteError, QMPClient

# Seconds: far beyond what a slow host needs.
PATIENCE = 90
# Bytes a second at which a round lasts long enough for the switch to be asked for in it.
SLOW = 8 << 20
ENDS = ("completed", "failed", "cancelled")


class Vm:
    """One VM's monitor."""

    def __init__(self, name, path):
        self.path = path
        self.client = QMPClient(name)
        self.listener = EventListener()
        self.client.register_listener(self.listener)
        self.events = []

    async def connect(self):
        await self.client.connect(self.path)

    async def run(self, command, **arguments):
        named = {name.replace("_", "-"): value for name, value in arguments.items()}
        return await self.client.execute(command, named)

    async def refused(self, command, **arguments):
        """The error's class and text."""
        try:
            await self.run(command, **arguments)
        except ExecuteError as error:
            return [error.error_class, str(error)]
        raise AssertionError(f"{command} was not refused")

    async def next_event(self):
        event = await self.listener.get()
        self.events.append(event)
        return event

    async def until_migration(self, status):
        """Waits until the migration has this status, by its events."""
        while True:
            event = await self.next_event()
            if event["event"] != "MIGRATION":
                continue
            now = event["data"]["status"]
            if now == status:
                return
            if now in ENDS:
                raise AssertionError(f"{now} instead of {status}: {await self.run('query-migrate')}")

    def told(self, name):
        """All events of this name so far."""
        self.events += self.listener.clear()
        return [event for event in self.events if event["event"] == name]

    async def disconnect(self):
        await self.client.disconnect()


async def capabilities(vm, postcopy):
    wanted = [
        {"capability": "events", "state": True},
        {"capability": "postcopy-ram", "state": postcopy},
    ]
    await vm.run("migrate-set-capabilities", capabilities=wanted)
    states = await vm.run("query-migrate-capabilities")
    for one in wanted:
        assert one in states, (one, states)
    return {one["capability"]: one["state"] for one in states}


async def completed(vm):
    """Asks until the migration has ended."""
    while True:
        info = await vm.run("query-migrate")
        if info["status"] in ENDS:
            assert info["status"] == "completed", info
            return info
        await asyncio.sleep(0.05)


async def parameters(vm, postcopy):
    wanted = {"downtime_limit": 300, "max_bandwidth": SLOW if postcopy else 0}
    await vm.run("migrate-set-parameters", **wanted, multifd_channels=2)
    found = await vm.run("query-migrate-parameters")
    assert found["downtime-limit"] == 300 and found["multifd-channels"] == 2, found


async def move(source_path, destination_path, uri, mode):
    postcopy = mode == "postcopy"
    source, destination = Vm("source", source_path), Vm("destination", destination_path)
    await source.connect()
    await destination.connect()
    version = (await source.run("query-version"))["package"]
    for vm in (source, destination):
        await capabilities(vm, postcopy)
    refusals = {
        "not-incoming": await source.refused("migrate-incoming", uri=uri),
        "unknown": await source.refused("no-such-command"),
    }
    await parameters(source, postcopy)

    await destination.run("migrate-incoming", uri=uri)
    await source.run("migrate", uri=uri)
    await source.until_migration("active")
    active = await source.run("query-migrate")
    if postcopy:
        await source.run("migrate-start-postcopy")
        await source.until_migration("postcopy-active")
    gone = await completed(source)
    await source.until_migration("completed")
    come = await completed(destination)
    await destination.until_migration("completed")

    report = {
        "version": version,
        "refusals": refusals,
        "active": active,
        "source": gone,
        "destination": come,
        "source-run": await source.run("query-status"),
        "destination-run": await destination.run("query-status"),
        "statuses": [event["data"]["status"] for event in source.told("MIGRATION")],
        "passes": [event["data"]["pass"] for event in source.told("MIGRATION_PASS")],
        "stops": len(source.told("STOP")),
        "resumes": len(destination.told("RESUME")),
    }
    await source.disconnect()
    await destination.disconnect()
    print(json.dumps(report))


async def leave(paths):
    for path in paths:
        vm = Vm("vm", path)
        await vm.connect()
        await vm.run("quit")
        try:
            await vm.disconnect()
        except (EOFError, ConnectionError):
            pass  # The VM has hung up first.


async def main(command, *arguments):
    work = move(*arguments) if command == "move" else leave(arguments)
    await asyncio.wait_for(work, PATIENCE)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
