// Calls tools with the official SDK: mcp_client.mjs CALLS URL COMMAND... Prints a JSON object for each call.
import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { StdioClientTransport } from "@modelcontextprotocol/sdk/client/stdio.js";
import { StreamableHTTPClientTransport } from "@modelcontextprotocol/sdk/client/streamableHttp.js";

const [calls, url, command, ...args] = process.argv.slice(2);

async function call(way, transport) {
  const client = new Client({ name: "test", version: "1" });
  await client.connect(transport);
  const tools = (await client.listTools()).tools.map((t) => t.name);
  for (const [name, given] of JSON.parse(calls)) {
    const args = Object.fromEntries(Object.entries(given).map(([k, v]) => [k, v.replace("WAY", way)]));
    let failed = true, text;
    try {
      const result = await client.callTool({ name, arguments: args });
      failed = Boolean(result.isError);
      text = result.content.map((c) => c.text).join("");
    } catch (e) {
      text = `${e.name}: ${e.message}`;
    }
    console.log(JSON.stringify({ way, tools, failed, text }));
  }
  await client.close();
}

await call("http", new StreamableHTTPClientTransport(new URL(url)));
await call("stdio", new StdioClientTransport({ command, args }));
