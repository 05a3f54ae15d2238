// steady.mjs 1|2 MODE URL SECONDS : one SDK client that calls `echo` ten times a second and never gives up.
//
// Whatever fails is tried again in the same session at first, and in a new one if that says that it is gone. Prints
// `ready` after the first answer, and at the end one JSON line: calls, failed, sessions, the longest wait in ms, and the
// number of the call that waited so.
import { setTimeout as sleep } from 'node:timers/promises';
import { require } from './packages.mjs';

const [generation, mode, url, seconds] = process.argv.slice(2);
const sum = { calls: 0, failed: 0, sessions: 0, longest_ms: 0, longest_call: 0, notes: [] };

async function connect() {
  sum.sessions++;
  if (generation === '1') {
    const { Client } = require('@modelcontextprotocol/sdk/client/index.js');
    const { StreamableHTTPClientTransport } = require('@modelcontextprotocol/sdk/client/streamableHttp.js');
    const client = new Client({ name: 'steady', version: '1' });
    await client.connect(new StreamableHTTPClientTransport(new URL(url)));
    return client;
  }
  const { Client, StreamableHTTPClientTransport } = require('@modelcontextprotocol/client');
  const client = new Client({ name: 'steady', version: '1' }, { versionNegotiation: { mode } });
  await client.connect(new StreamableHTTPClientTransport(new URL(url)));
  return client;
}

async function echo(client, number) {
  const params = { name: 'echo', arguments: { text: `n${number}` } };
  const result = await (generation === '1'
    ? client.callTool(params, undefined, { timeout: 20000 }) : client.callTool(params, { timeout: 20000 }));
  if (result.content?.[0]?.text !== `n${number}`) throw new Error(`an empty success: ${JSON.stringify(result)}`);
}

const gone = error => error?.code === 404 || error?.status === 404 || /404|session/i.test(String(error?.message));

let client = await connect();
const end = performance.now() + parseFloat(seconds) * 1000;
for (let number = 0; performance.now() < end; number++) {
  const started = performance.now();
  try {
    client ??= await connect();
    await echo(client, number);
    sum.calls++;
    if (sum.calls === 1) console.log('ready');
  } catch (error) {
    sum.failed++;
    sum.notes.push(`${error?.name} ${error?.code ?? ''} ${error?.message}`.slice(0, 200));
    if (gone(error)) client = undefined;
  }
  const waited_ms = Math.round(performance.now() - started);
  if (waited_ms > sum.longest_ms) [sum.longest_ms, sum.longest_call] = [waited_ms, sum.calls];
  await sleep(100);
}
console.log(JSON.stringify(sum));
process.exit(0);
