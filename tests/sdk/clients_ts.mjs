// clients_ts.mjs 1|2 MODE URL : the TypeScript SDK drivers of clients.py (1: @modelcontextprotocol/sdk, 2: /client).
// Prints one JSON line per step. PREFIX stands before the names of tools and prompts, SCHEME is that of the resources.
import { setTimeout as sleep } from 'node:timers/promises';
import { require } from './packages.mjs';

const [generation, mode, url] = process.argv.slice(2);
const IDLE_S = parseFloat(process.env.IDLE_S ?? '3');
const STEP_S = parseFloat(process.env.STEP_S ?? '30');
const PREFIX = process.env.PREFIX ?? '';
const SCHEME = process.env.SCHEME ?? 'test';
const WATCHED = `${SCHEME}://watched`;
const CALL_TIMEOUT = { timeout: (STEP_S - 1) * 1000 };

const logs = [];
const notifications = [];

function report(step, ok, started, note = '') {
  const ms = Math.round((performance.now() - started) * 10) / 10;
  console.log(JSON.stringify({ step, ok, ms, note: String(note).slice(0, 300) }));
}

const describe = error => `${error?.name}: ${error?.message} ${error?.code ?? ''}`;

function assert(condition, note) {
  if (!condition) throw new Error(typeof note === 'string' ? note : JSON.stringify(note));
}

async function step(name, run, limitSeconds = STEP_S) {
  const started = performance.now();
  const limit = sleep(limitSeconds * 1000).then(() => {
    throw new Error(`step limit ${limitSeconds}s`);
  });
  try {
    const note = await Promise.race([run(), limit]);
    report(name, true, started, note ?? '');
  } catch (error) {
    report(name, false, started, describe(error));
  }
}

const onElicit = async () => ({ action: 'accept', content: { name: 'Ada' } });
const onRoots = async () => ({ roots: [{ uri: 'file:///srv/data', name: 'data' }] });
const onSample = async request => {
  const content = request.params.messages[0].content;
  const asked = (Array.isArray(content) ? content[0] : content).text;
  return { role: 'assistant', model: 'm', content: { type: 'text', text: `echo:${asked}` } };
};
const onLog = notification => void logs.push(notification);
const onNotification = notification => void notifications.push(notification.method);

/** Each returns {client, transport, era, version, call, unknownMethod}. */
const connecting = {
  async 1() {
    const { Client } = require('@modelcontextprotocol/sdk/client/index.js');
    const { StreamableHTTPClientTransport } = require('@modelcontextprotocol/sdk/client/streamableHttp.js');
    const { SSEClientTransport } = require('@modelcontextprotocol/sdk/client/sse.js');
    const types = require('@modelcontextprotocol/sdk/types.js');
    const capabilities = { sampling: {}, elicitation: {}, roots: {} };
    const client = new Client({ name: 'ts1', version: '1' }, { capabilities });
    client.setRequestHandler(types.ElicitRequestSchema, onElicit);
    client.setRequestHandler(types.CreateMessageRequestSchema, onSample);
    client.setRequestHandler(types.ListRootsRequestSchema, onRoots);
    client.setNotificationHandler(types.LoggingMessageNotificationSchema, onLog);
    client.setNotificationHandler(types.ResourceUpdatedNotificationSchema, onNotification);
    client.setNotificationHandler(types.ToolListChangedNotificationSchema, onNotification);
    let transport = new (mode === 'sse' ? SSEClientTransport : StreamableHTTPClientTransport)(new URL(url));
    try {
      await client.connect(transport);
    } catch (error) {
      if (mode !== 'fallback') throw error;
      transport = new SSEClientTransport(new URL(url));
      await client.connect(transport);
    }
    return {
      client, transport, era: 'legacy', version: transport.protocolVersion ?? transport.constructor.name,
      call: (name, args, { log, ...options } = {}) =>
        client.callTool({ name: PREFIX + name, arguments: args }, undefined, { ...CALL_TIMEOUT, ...options }),
      unknownMethod: request => client.request(request, types.EmptyResultSchema),
    };
  },
  async 2() {
    const { Client, StreamableHTTPClientTransport } = require('@modelcontextprotocol/client');
    const z = require('zod/v4');
    const versionNegotiation = { mode: mode === 'legacy' || mode === 'auto' ? mode : { pin: mode } };
    const capabilities = { sampling: {}, elicitation: { form: {} }, roots: {} };
    const client = new Client({ name: 'ts2', version: '1' }, { capabilities, versionNegotiation });
    client.setRequestHandler('elicitation/create', onElicit);
    client.setRequestHandler('sampling/createMessage', onSample);
    client.setRequestHandler('roots/list', onRoots);
    client.setNotificationHandler('notifications/message', onLog);
    client.setNotificationHandler('notifications/resources/updated', onNotification);
    client.setNotificationHandler('notifications/tools/list_changed', onNotification);
    const transport = new StreamableHTTPClientTransport(new URL(url));
    await client.connect(transport);
    const era = client.getProtocolEra();
    const logMeta = { _meta: { 'io.modelcontextprotocol/logLevel': 'debug' } };
    return {
      client, transport, era, version: client.getNegotiatedProtocolVersion(),
      call: (name, args, { log, ...options } = {}) => client.callTool(
        { name: PREFIX + name, arguments: args, ...(log && era === 'modern' ? logMeta : {}) },
        { ...CALL_TIMEOUT, ...options }),
      unknownMethod: request => client.request(request, z.object({}).passthrough()),
    };
  },
};

async function connect() {
  const started = performance.now();
  try {
    const connected = await connecting[generation]();
    const { era, version, transport } = connected;
    const wanted = ['legacy', 'sse', 'fallback'].includes(mode) ? 'legacy' : mode === 'auto' ? era : 'modern';
    report('connect', era === wanted, started, `${version} ${era} session ${transport.sessionId ? 'yes' : 'no'}`);
    return connected;
  } catch (error) {
    report('connect', false, started, describe(error));
    process.exit(0);
  }
}

const { client, transport, era, call, unknownMethod } = await connect();

function text(result) {
  assert(result.content?.length, result);
  return result.content[0].text;
}

/** Fires `trigger` until a notification whose method ends so shows up. */
async function waitForNotification(ending, trigger) {
  for (let attempt = 1; attempt <= 8; attempt++) {
    await trigger();
    for (let poll = 0; poll < 8; poll++) {
      if (notifications.some(method => method.endsWith(ending))) return `after ${attempt} trigger(s)`;
      await sleep(50);
    }
  }
  throw new Error('no event; got ' + JSON.stringify(notifications.slice(0, 5)));
}

/** A modern client must ask for events and keep that stream open while it waits for them. */
async function listening(filter, run) {
  if (era === 'legacy') return run();
  const subscription = await client.listen(filter);
  try {
    return await run();
  } finally {
    await subscription.close();
  }
}

async function toolsChanged(idleSeconds) {
  notifications.length = 0;
  return listening({ toolsListChanged: true }, async () => {
    await sleep(idleSeconds * 1000);
    return waitForNotification('tools/list_changed', () => call('add_tool', {}));
  });
}

/** The items on all pages of a list. */
async function listed(kind, list) {
  const items = [];
  let page;
  do {
    page = await list(page && { cursor: page.nextCursor });
    items.push(...page[kind]);
  } while (page.nextCursor);
  return items;
}

await step('list-tools', async () => {
  const names = (await listed('tools', page => client.listTools(page))).map(tool => tool.name);
  assert(['echo', 'add', 'slow', 'wait'].every(name => names.includes(PREFIX + name)), names);
  return `${names.length} tools`;
});
await step('echo', async () => assert(text(await call('echo', { text: 'hi' })) === 'hi', 'echo'));
await step('unicode', async () => {
  const sent = 'zażółć 日本語 🙂 \u2028 \\ " \x7f';
  assert(text(await call('echo', { text: sent })) === sent, 'unicode');
});
await step('add', async () => assert(text(await call('add', { a: 2, b: 40.5 })).includes('42.5'), 'add'));
await step('fail', async () => assert((await call('fail', {})).isError === true, 'no isError'));
await step('unknown-tool', async () => {
  let result;
  try {
    result = await call('no_such_tool', {});
  } catch (error) {
    assert(error.code !== undefined, error.message);
    return `error ${error.code}`;
  }
  assert(result.isError === true, result);
  return 'isError';
});
await step('unknown-method', async () => {
  try {
    await unknownMethod({ method: 'x/no_such_method', params: {} });
  } catch (error) {
    // SDK v2 shows the body of a 404 as the text of an SdkHttpError
    const told = error.code === -32601 || /"code":-32601/.test(error.message);
    assert(told, `${error.name} ${error.code} ${error.message}`);
    return `code ${error.code}`;
  }
  throw new Error('no error');
});
await step('progress', async () => {
  const seen = [];
  const onprogress = ({ progress }) => seen.push({ at: performance.now(), progress });
  const result = await call('slow', { steps: 5, delay_ms: 200 }, { onprogress });
  const ended = performance.now();
  assert(text(result) === 'slow done 5', result);
  assert(JSON.stringify(seen.map(event => event.progress)) === '[1,2,3,4,5]', seen);
  const early = ended - seen[0].at;
  assert(early > 500, `progress arrived only ${early.toFixed(0)} ms before the result: buffered?`);
  return `first event ${early.toFixed(0)} ms before the result`;
});
await step('logging', async () => {
  logs.length = 0;
  if (era === 'legacy') await client.setLoggingLevel('debug');
  await call('logs', {}, { log: true });
  await sleep(300);
  assert(logs.length >= 2, logs);
});
await step('resources', async () => {
  const uris = (await listed('resources', page => client.listResources(page))).map(resource => resource.uri);
  assert(uris.includes(`${SCHEME}://static`), uris);
  const result = await client.readResource({ uri: `${SCHEME}://static` });
  assert(result.contents[0].text === 'static text', result);
});
await step('template', async () => {
  const result = await client.readResource({ uri: `${SCHEME}://item/abc` });
  assert(result.contents[0].text === 'item abc', result);
});
await step('prompts', async () => {
  const names = (await listed('prompts', page => client.listPrompts(page))).map(prompt => prompt.name);
  assert(names.includes(`${PREFIX}greet`), names);
  const result = await client.getPrompt({ name: `${PREFIX}greet`, arguments: { name: 'Bo' } });
  assert(result.messages[0].content.text.includes('Bo'), result);
});
await step('complete', async () => {
  const argument = { name: 'name', value: 'al' };
  const result = await client.complete({ ref: { type: 'ref/prompt', name: `${PREFIX}greet` }, argument });
  assert(JSON.stringify(result.completion.values) === '["alice","albert"]', result);
});
await step('elicit', async () => assert(text(await call('ask_name', {})) === 'hello Ada', 'elicit'));
await step('sample', async () =>
  assert(text(await call('ask_llm', { prompt: '2+2?' })) === 'llm said echo:2+2?', 'sample'));
await step('roots', async () =>
  assert(text(await call('ask_roots', {})) === 'roots file:///srv/data', 'roots'));
await step('sub-updated', async () => {
  notifications.length = 0;
  if (era === 'legacy') await client.subscribeResource({ uri: WATCHED });
  return listening({ resourceSubscriptions: [WATCHED] },
    () => waitForNotification('resources/updated', () => call('touch', {})));
});
await step('tools-changed', () => toolsChanged(0));
await step('idle-stream', async () => `${IDLE_S}s idle, ` + await toolsChanged(IDLE_S), 30 + IDLE_S);
await step('cancel', async () => {
  const key = `k${process.hrtime.bigint()}`;
  const abort = new AbortController();
  setTimeout(() => abort.abort('test'), 700);
  const ended = await call('wait', { key, ms: 20000 }, { signal: abort.signal }).catch(() => 'cancelled');
  assert(ended === 'cancelled', 'was not cancelled');
  let state;
  for (let attempt = 0; attempt < 30; attempt++) {
    state = text(await call('wait_state', { key }));
    if (state === 'cancelled') return;
    await sleep(100);
  }
  throw new Error(`the server still says ${state}`);
});
await step('big-down', async () => assert(text(await call('big', { size: 1000000 })).length === 1000000, 'length'));
await step('big-up', async () =>
  assert(text(await call('length', { text: 'y'.repeat(1000000) })).includes('1000000'), 'length'));
await step('parallel50', async () => {
  const calls = Array.from({ length: 50 }, (_, number) =>
    number % 2 ? call('echo', { text: `n${number}` }) : call('slow', { steps: 2, delay_ms: 50 }));
  const results = await Promise.all(calls);
  results.forEach((result, number) =>
    assert(text(result) === (number % 2 ? `n${number}` : 'slow done 2'), [number, text(result)]));
});
await step('ping-or-discover', async () => {
  if (era === 'legacy') {
    await client.ping();
    return 'ping';
  }
  const found = (await client.discover()) ?? client.getDiscoverResult();
  assert(found.supportedVersions.includes('2026-07-28'), found);
  return 'discover';
});
await step('close', async () => {
  if (transport.terminateSession && transport.sessionId) await transport.terminateSession();
  await client.close();
});
process.exit(0);
