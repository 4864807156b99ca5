// Conversations by the npm client of MCP, led by lines of JSON: {"id", "do": "begin" | "turn" | "close", ...} → {"id", ...}.
//
// One process holds all of them, each a session of its own. Every other turn is a stream that has to be resumed.

import { createInterface } from "node:readline";
import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { StreamableHTTPClientTransport } from "@modelcontextprotocol/sdk/client/streamableHttp.js";

// Its own patience with a server that is started again: it would give a stream up after two attempts.
const reconnectionOptions = {
  initialReconnectionDelay: 100,
  maxReconnectionDelay: 500,
  reconnectionDelayGrowFactor: 1.5,
  maxRetries: 30,
};
const timeout = 5_000; // milliseconds for one call

const talks = new Map();

async function begin({ talk, url, fields }) {
  const client = new Client({ name: "crowd", version: "1" });
  const transport = new StreamableHTTPClientTransport(new URL(`${url}/mcp`), {
    requestInit: { headers: fields },
    reconnectionOptions,
  });
  transport.onerror = () => {}; // a stream that broke off is taken up again by the transport itself
  await client.connect(transport);
  talks.set(talk, { client, transport });
  return {};
}

async function turn({ talk, number }) {
  const name = number % 2 ? "work" : "say";
  const result = await talks.get(talk).client.callTool(
    { name, arguments: { word: String(number) } },
    undefined,
    { timeout },
  );
  if (result.isError) throw new Error(result.content[0].text);
  return { said: JSON.parse(result.content[0].text) };
}

async function close({ talk }) {
  const { client, transport } = talks.get(talk);
  talks.delete(talk);
  await transport.terminateSession();
  await client.close();
  return {};
}

const verbs = { begin, turn, close };
for await (const line of createInterface({ input: process.stdin })) {
  const order = JSON.parse(line);
  verbs[order.do](order)
    .catch((error) => ({ error: `${error.name} ${error.code ?? ""} ${error.message}` }))
    .then((answer) => process.stdout.write(`${JSON.stringify({ id: order.id, ...answer })}\n`));
}
process.exit(0);
