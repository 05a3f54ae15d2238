// extra.mjs URL : what real clients do that clients.py and the conformance suite do not see.
//
// URL is fixture.mjs, or a gateway before it. Prints a line per client and step, then the sum, as clients.py does:
//   resume          the server closes the answer's stream; the client must come back with GET and Last-Event-ID
//   resume-listen   the GET stream breaks; what happened meanwhile must be replayed
//   expired         the session ends behind the client's back: 404, and a new client gets a new session
//   separators      U+2028, U+2029 and U+0085, which some parsers take for line ends, unescaped in the stream
//   param-headers   arguments that travel as Mcp-Param-* too, one of them not ASCII
//   no-version      a 2025-03-26 client, which never sends MCP-Protocol-Version
//   batch           arrays of 2025-03-26; refused as soon as one element is modern
// Exit 0: nothing failed and something passed. Exit 1: the rest.
import { spawn } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { here, require } from './packages.mjs';

const url = process.argv[2];
if (!url) {
  console.error('usage: extra.mjs URL');
  process.exit(2);
}
const STEP_S = parseFloat(process.env.STEP_S ?? '30');
const SEPARATORS = 'a\u2028b\u2029c\u0085d';
const REGION = 'zażółć';
const sum = { passed: 0, failed: 0, skipped: 0 };

function report(client, step, ok, note = '') {
  const [word, count] = ok === null ? ['SKIP', 'skipped'] : ok ? ['pass', 'passed'] : ['FAIL', 'failed'];
  sum[count]++;
  console.log(`${word} ${client} ${step}${note ? `: ${note}` : ''}`);
}

function assert(condition, note) {
  if (!condition) throw new Error(typeof note === 'string' ? note : JSON.stringify(note));
}

async function step(client, name, run) {
  const limit = sleep(STEP_S * 1000).then(() => {
    throw new Error(`step limit ${STEP_S}s`);
  });
  try {
    report(client, name, true, await Promise.race([run(), limit]));
  } catch (error) {
    report(client, name, false, `${error?.name}: ${error?.message}`);
  }
}

// ---- the TypeScript SDKs

/** Passes requests on, remembers them, and can break the GET stream that is open. */
function watchedFetch() {
  const seen = [];
  let listening;
  const send = async (input, init = {}) => {
    const method = init.method ?? 'GET';
    const broken = new AbortController();
    const signal = AbortSignal.any([broken.signal, ...(init.signal ? [init.signal] : [])]);
    const response = await fetch(input, { ...init, signal });
    seen.push({ method, lastEventId: new Headers(init.headers).get('last-event-id'), status: response.status });
    if (method === 'GET' && response.ok) listening = broken;
    return response;
  };
  return { send, seen, listens: () => listening !== undefined, breakListening: () => listening.abort() };
}

function connectTs1(options, onToolsChanged = () => {}) {
  const { Client } = require('@modelcontextprotocol/sdk/client/index.js');
  const { StreamableHTTPClientTransport } = require('@modelcontextprotocol/sdk/client/streamableHttp.js');
  const { ToolListChangedNotificationSchema } = require('@modelcontextprotocol/sdk/types.js');
  const client = new Client({ name: 'extra-ts1', version: '1' });
  client.setNotificationHandler(ToolListChangedNotificationSchema, onToolsChanged);
  return connectTs(client, new StreamableHTTPClientTransport(new URL(url), options));
}

const connectTs2 = mode => (options, onToolsChanged = () => {}) => {
  const { Client, StreamableHTTPClientTransport } = require('@modelcontextprotocol/client');
  const client = new Client({ name: 'extra-ts2', version: '1' }, { versionNegotiation: { mode } });
  client.setNotificationHandler('notifications/tools/list_changed', onToolsChanged);
  return connectTs(client, new StreamableHTTPClientTransport(new URL(url), options));
};

async function connectTs(client, transport) {
  await client.connect(transport);
  return { client, transport };
}

async function until(condition, what) {
  for (let attempt = 0; attempt < 100; attempt++) {
    if (condition()) return;
    await sleep(100);
  }
  throw new Error(`waited 10 s for ${what}`);
}

async function resume(connect) {
  const watched = watchedFetch();
  const { client } = await connect({ fetch: watched.send });
  const result = await client.callTool({ name: 'test_reconnection', arguments: {} });
  assert(result.content[0].text === 'Answered after the stream was closed', result);
  const resumed = watched.seen.find(request => request.lastEventId);
  assert(resumed?.status === 200, watched.seen);
  await client.close();
  return `Last-Event-ID ${resumed.lastEventId}`;
}

async function resumeListening(connect) {
  const watched = watchedFetch();
  let changes = 0;
  const { client } = await connect({ fetch: watched.send }, () => { changes++; });
  const change = () => client.callTool({ name: 'test_trigger_tool_change', arguments: {} });
  await until(watched.listens, 'the GET stream');
  await change();
  await until(() => changes === 1, 'the first event');
  watched.breakListening();
  await change();
  await until(() => changes === 2, 'the event that was missed');
  const resumed = watched.seen.find(request => request.lastEventId);
  assert(resumed?.status === 200, watched.seen);
  await client.close();
  return `Last-Event-ID ${resumed.lastEventId}`;
}

async function expired(connect) {
  const { client, transport } = await connect({});
  const old = transport.sessionId;
  assert(old, 'no session');
  const headers = { 'mcp-session-id': old, 'mcp-protocol-version': '2025-11-25' };
  const ended = await fetch(url, { method: 'DELETE', headers });
  assert(ended.ok, `DELETE got ${ended.status}`);
  const failure = await client.listTools().then(() => undefined, error => error);
  const status = failure?.status ?? failure?.data?.status ?? failure?.code;
  assert(status === 404, `${failure} (${status})`);
  await client.close();
  const again = await connect({});
  assert(again.transport.sessionId && again.transport.sessionId !== old, 'no new session');
  assert((await again.client.listTools()).tools.length > 0, 'no tools');
  await again.client.close();
}

async function separators(connect) {
  const { client } = await connect({});
  const prompt = { name: 'test_prompt_with_arguments', arguments: { arg1: SEPARATORS, arg2: 'x' } };
  const result = await client.getPrompt(prompt);
  assert(result.messages[0].content.text.includes(`'${SEPARATORS}'`), result);
  await client.close();
}

async function paramHeaders(connect) {
  const { client } = await connect({});
  await client.listTools();
  const result = await client.callTool({ name: 'test_x_mcp_header', arguments: { region: REGION, priority: 42 } });
  assert(result.content[0].text === `region=${REGION} priority=42`, result);
  await client.close();
}

for (const [client, connect] of [['ts1', connectTs1], ['ts2-legacy', connectTs2('legacy')]]) {
  await step(client, 'resume', () => resume(connect));
  await step(client, 'resume-listen', () => resumeListening(connect));
  await step(client, 'expired', () => expired(connect));
  await step(client, 'separators', () => separators(connect));
}
const modern = connectTs2({ pin: '2026-07-28' });
await step('ts2-modern', 'separators', () => separators(modern));
await step('ts2-modern', 'param-headers', () => paramHeaders(modern));

// ---- a client without an SDK

const ACCEPT = { 'content-type': 'application/json', accept: 'application/json, text/event-stream' };

function post(message, headers = {}) {
  return fetch(url, { method: 'POST', headers: { ...ACCEPT, ...headers }, body: JSON.stringify(message) });
}

/** The messages of an answer, which may be an object, an array or a stream of either. */
async function messagesOf(response) {
  const body = await response.text();
  if (!response.headers.get('content-type')?.includes('text/event-stream')) return [JSON.parse(body)].flat();
  const data = body.split(/\r\n|\n|\r/).filter(line => line.startsWith('data:')).map(line => line.slice(5).trim());
  return data.filter(Boolean).flatMap(text => JSON.parse(text));
}

/** Opens a session as a client of 2025-03-26 does: the version is in the body only. */
async function openFirstVersion() {
  const clientInfo = { name: 'extra-raw', version: '1' };
  const opened = await post({
    jsonrpc: '2.0', id: 0, method: 'initialize',
    params: { protocolVersion: '2025-03-26', capabilities: {}, clientInfo },
  });
  const [answer] = await messagesOf(opened);
  assert(answer.result?.protocolVersion === '2025-03-26', answer);
  const session = { 'mcp-session-id': opened.headers.get('mcp-session-id') };
  const initialized = await post({ jsonrpc: '2.0', method: 'notifications/initialized' }, session);
  assert(initialized.status === 202, `initialized got ${initialized.status}`);
  return session;
}

const listTools = { jsonrpc: '2.0', id: 1, method: 'tools/list' };
const simpleText = { name: 'test_simple_text', arguments: {} };
const callTool = { jsonrpc: '2.0', id: 'two', method: 'tools/call', params: simpleText };

await step('raw', 'no-version', async () => {
  const session = await openFirstVersion();
  const [listed] = await messagesOf(await post(listTools, session));
  assert(listed.id === 1 && listed.result?.tools.length > 0, listed);
  const abort = new AbortController();
  const stream = await fetch(url, { headers: { accept: 'text/event-stream', ...session }, signal: abort.signal });
  const type = stream.headers.get('content-type');
  abort.abort();
  assert(stream.status === 200 && type?.startsWith('text/event-stream'), `GET got ${stream.status} ${type}`);
  const ended = await fetch(url, { method: 'DELETE', headers: session });
  assert(ended.ok, `DELETE got ${ended.status}`);
});

await step('raw', 'batch', async () => {
  const session = await openFirstVersion();
  const cancelled = { jsonrpc: '2.0', method: 'notifications/cancelled', params: { requestId: 99 } };
  const answers = await messagesOf(await post([listTools, cancelled, callTool], session));
  assert(answers.length === 2, answers);
  assert(answers.some(answer => answer.id === 1 && answer.result.tools.length > 0), answers);
  assert(answers.some(answer => answer.id === 'two' && answer.result.content.length === 1), answers);
  const silent = await post([cancelled, cancelled], session);
  assert(silent.status === 202, `notifications got ${silent.status}`);
});

await step('raw', 'batch-modern', async () => {
  const _meta = {
    'io.modelcontextprotocol/protocolVersion': '2026-07-28',
    'io.modelcontextprotocol/clientCapabilities': {},
  };
  const refused = await post([listTools, { ...listTools, id: 2, params: { _meta } }]);
  assert(refused.status === 400, `got ${refused.status}`);
});

await step('raw', 'separators', async () => {
  const session = await openFirstVersion();
  const prompt = { name: 'test_prompt_with_arguments', arguments: { arg1: SEPARATORS, arg2: 'x' } };
  const request = { jsonrpc: '2.0', id: 3, method: 'prompts/get', params: prompt };
  const [answer] = await messagesOf(await post(request, session));
  assert(answer.result?.messages[0].content.text.includes(`'${SEPARATORS}'`), answer);
});

// ---- the Python SDKs

const cache = path.resolve(here, '../../.cache/sdk');
const pythons = {
  py1: process.env.PORTUNUS_PY1 ?? `${cache}/py1/bin/python`,
  py2: process.env.PORTUNUS_PY2 ?? `${cache}/py2/bin/python`,
};

/** extra_py.py prints a line `{"client", "step", "ok", "note"}` per step. */
function runPython(name, python) {
  return new Promise(done => {
    const child = spawn(python, [`${here}/extra_py.py`, name, url], { stdio: ['ignore', 'pipe', 'inherit'] });
    let output = '';
    child.stdout.on('data', chunk => { output += chunk; });
    child.on('close', code => {
      const lines = output.split('\n').filter(line => line.startsWith('{')).map(line => JSON.parse(line));
      for (const line of lines) report(line.client, line.step, line.ok, line.note);
      if (!lines.length || code !== 0) report(name, 'driver', false, `exit status ${code}`);
      done();
    });
  });
}

for (const [name, python] of Object.entries(pythons)) {
  if (fs.existsSync(python)) await runPython(name, python);
  else report(name, 'all', null, 'not installed');
}

console.log(`${sum.passed} passed, ${sum.failed} failed, ${sum.skipped} skipped`);
process.exit(sum.failed || !sum.passed ? 1 : 0);
