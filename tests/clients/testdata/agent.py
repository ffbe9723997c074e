"""The Agent SDK: the agent does what the prompt (the argument) says; what it answers goes to stdout."""

import asyncio
import sys

from claude_agent_sdk import AssistantMessage, ClaudeAgentOptions, ResultMessage, TextBlock, query


async def main():
    failed = True
    options = ClaudeAgentOptions(allowed_tools=["Bash"], max_turns=3)
    async for message in query(prompt=sys.argv[1], options=options):
        if isinstance(message, AssistantMessage):
            for block in message.content:
                if isinstance(block, TextBlock):
                    print(block.text)
        elif isinstance(message, ResultMessage):
            print("error" if message.is_error else "done", message.result)
            failed = message.is_error
    return failed


sys.exit(1 if asyncio.run(main()) else 0)
