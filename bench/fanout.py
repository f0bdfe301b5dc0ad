"""The limit: log in to all the nodes, run the script there, throw the output away. Run with the benchmark's own Python:

fanout.py ADDRESSES SCRIPT KEY KNOWN_HOSTS PORT AT_ONCE
"""

import asyncio
import sys

import asyncssh

WHOLE = "timeout -k 5 60 sh -s"


async def main() -> int:
    addresses, script, key, known_hosts, port, at_once = sys.argv[1:]
    with open(addresses) as lines:
        nodes = lines.read().split()
    with open(script) as text:
        data = text.read()
    some = asyncio.Semaphore(int(at_once))

    async def one(node: str) -> int:
        options = {"username": "root", "client_keys": [key], "known_hosts": known_hosts, "config": None}
        async with some, asyncssh.connect(node, int(port), **options, agent_path=None) as connection:
            done = await connection.run(WHOLE, input=data)
            return done.exit_status or 0

    return max(await asyncio.gather(*map(one, nodes)))


sys.exit(asyncio.run(main()))
