// Node's HTTP clients and the SDK on them: one JSON object per case on stdout.
import https from "node:https";
import Anthropic from "@anthropic-ai/sdk";
import WebSocket from "ws";

const API = "https://api.test", DENIED = "https://denied.test";

// What a person would see: Node says why in the cause.
const words = (e) => {
  let text = `${e.name}: ${e.message}`;
  for (let c = e.cause; c; c = c.cause) text += `: ${c.message}`;
  return text;
};

async function report(client, name, call) {
  let text;
  try {
    text = await call();
  } catch (e) {
    text = words(e);
  }
  console.log(JSON.stringify({ client, case: name, text: String(text) }));
}

async function three(client, get) {
  await report(client, "allowed", () => get(`${API}/v1/echo/${client}`));
  await report(client, "path", () => get(`${API}/v2/${client}`));
  await report(client, "host", () => get(`${DENIED}/${client}`));
}

const get = (url) => new Promise((done, fail) => {
  https.get(url, { headers: { "x-api-key": "postern" } }, (r) => {
    let body = "";
    r.on("data", (d) => (body += d)).on("end", () => done(body));
  }).on("error", fail);
});

async function events() {
  const r = await fetch(`${API}/v1/events/node`);
  let body = "", acked = false;
  for await (const piece of r.body) {
    body += Buffer.from(piece).toString();
    if (!acked) {
      acked = true;
      await fetch(`${API}/v1/ack/node`);
    }
  }
  return body;
}

const socket = (url) => new Promise((done, fail) => {
  const ws = new WebSocket(url);
  ws.on("open", () => ws.send("hello")).on("error", fail);
  ws.on("message", (m) => { ws.close(); done(m.toString()); });
  ws.on("unexpected-response", (_, r) => {
    let body = "";
    r.on("data", (d) => (body += d)).on("end", () => fail(new Error(`${r.statusCode}: ${body}`)));
  });
});

async function sdk(baseURL) {
  const client = new Anthropic({ baseURL, maxRetries: 0, timeout: 20000 });
  const pieces = [];
  const stream = client.messages.stream({ model: "claude-test", max_tokens: 64, messages: [{ role: "user", content: "hi" }] });
  for await (const e of stream) {
    if (e.type === "content_block_delta") pieces.push(e.delta.text);
  }
  if (pieces.length < 3) throw new Error(`not a stream: ${pieces}`);
  return pieces.join("");
}

await three("fetch", async (url) => (await fetch(url, { headers: { "x-api-key": "postern" } })).text());
await three("https", get);
await report("fetch", "events", events);
await report("ws", "allowed", () => socket("wss://ws.test/v1/ws"));
await report("ws", "path", () => socket("wss://ws.test/v2/ws"));
await report("ws", "host", () => socket("wss://denied.test/ws"));
await report("anthropic-typescript", "gateway", () => sdk("http://localhost:8080"));
await report("anthropic-typescript", "allowed", () => sdk(API));
await report("anthropic-typescript", "gateway-path", () => sdk("http://localhost:8080/v2"));
await report("anthropic-typescript", "path", () => sdk(`${API}/v2`));
await report("anthropic-typescript", "host", () => sdk(DENIED));
process.exit(0);
