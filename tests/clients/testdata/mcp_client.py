"""Calls tools with the official SDK: mcp_client.py CALLS URL COMMAND... Prints a JSON object for each call."""

import asyncio
import json
import sys

from mcp import Client, StdioServerParameters

calls, url, command = json.loads(sys.argv[1]), sys.argv[2], sys.argv[3:]


async def call(way, server):
    async with Client(server, mode=way.split()[1]) as client:
        spoken = f"{way} {client.session.protocol_version}"
        listed = [t.name for t in (await client.list_tools()).tools]
        for name, arguments in calls:
            arguments = {k: v.replace("WAY", way.replace(" ", "-")) for k, v in arguments.items()}
            try:
                result = await client.call_tool(name, arguments)
                failed, text = bool(result.is_error), "".join(c.text for c in result.content)
            except Exception as e:
                failed, text = True, f"{type(e).__name__}: {e}"
            print(json.dumps({"way": spoken, "tools": listed, "failed": failed, "text": text}), flush=True)


for mode in "legacy", "auto":
    asyncio.run(call("http " + mode, url))
    asyncio.run(call("stdio " + mode, StdioServerParameters(command=command[0], args=command[1:])))
