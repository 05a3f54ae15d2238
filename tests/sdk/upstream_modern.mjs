// upstream_modern.mjs PORT [--scheme NAME] : the contract of upstream.py on the TypeScript SDK v2, 2026-07-28 only.
import { listen, require } from './packages.mjs';

const { toNodeHandler } = require('@modelcontextprotocol/node');
const { McpServer, ResourceTemplate, acceptedContent, completable, createMcpHandler, inputRequired, inputResponse } =
  require('@modelcontextprotocol/server');
const z = require('zod/v4');

// A server is built for every request, so what they share lives here.
const waits = new Map();
const extraTools = [];
let touched = 0;
const [port = '0', flag, scheme = 'test'] = process.argv.slice(2);
if (flag && flag !== '--scheme') throw new Error(`unknown option ${flag}`);

const text = value => ({ content: [{ type: 'text', text: String(value) }] });

function sleep(ms, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, ms);
    signal.addEventListener('abort', () => {
      clearTimeout(timer);
      reject(new Error('aborted'));
    });
  });
}

function buildServer() {
  const server = new McpServer({ name: 'fixture-modern', version: '1.0.0' }, {
    capabilities: {
      logging: {}, tools: { listChanged: true }, resources: { subscribe: true, listChanged: true }, prompts: {},
      completions: {},
    },
  });
  const tool = (name, schema, run) =>
    server.registerTool(name, { description: name, inputSchema: z.object(schema) }, run);
  plainTools(tool);
  longTools(tool);
  askingTools(tool);
  changingTools(tool);
  resourcesAndPrompts(server);
  return server;
}

function plainTools(tool) {
  tool('echo', { text: z.string() }, async args => text(args.text));
  tool('add', { a: z.number(), b: z.number() }, async ({ a, b }) => text(a + b));
  tool('fail', {}, async () => {
    throw new Error('deliberate tool failure');
  });
  tool('big', { size: z.number() }, async ({ size }) => text('x'.repeat(size)));
  tool('length', { text: z.string() }, async args => text(args.text.length));
  tool('logs', {}, async (_, ctx) => {
    await ctx.mcpReq.log('info', 'log line one');
    await ctx.mcpReq.log('info', 'log line two');
    return text('logged');
  });
}

function longTools(tool) {
  tool('slow', { steps: z.number(), delay_ms: z.number() }, async ({ steps, delay_ms }, ctx) => {
    const progressToken = ctx.mcpReq._meta?.progressToken;
    for (let step = 1; step <= steps; step++) {
      const params = { progressToken, progress: step, total: steps, message: `step ${step}` };
      if (progressToken !== undefined) await ctx.mcpReq.notify({ method: 'notifications/progress', params });
      await sleep(delay_ms, ctx.mcpReq.signal);
    }
    return text(`slow done ${steps}`);
  });
  tool('wait', { key: z.string(), ms: z.number() }, async ({ key, ms }, ctx) => {
    waits.set(key, 'running');
    try {
      await sleep(ms, ctx.mcpReq.signal);
      waits.set(key, 'finished');
    } catch (error) {
      waits.set(key, 'cancelled');
      throw error;
    }
    return text('waited');
  });
  tool('wait_state', { key: z.string() }, async ({ key }) => text(waits.get(key) ?? 'unknown'));
}

const NAME_SCHEMA = { type: 'object', properties: { name: { type: 'string' } }, required: ['name'] };

function askingTools(tool) {
  tool('ask_name', {}, async (_, ctx) => {
    const given = acceptedContent(ctx.mcpReq.inputResponses, 'name');
    if (given) return text(`hello ${given.name}`);
    const question = inputRequired.elicit({ message: 'Your name?', requestedSchema: NAME_SCHEMA });
    return inputRequired({ inputRequests: { name: question }, requestState: 'asked-name' });
  });
  tool('ask_llm', { prompt: z.string() }, async ({ prompt }, ctx) => {
    const answer = inputResponse(ctx.mcpReq.inputResponses, 'llm');
    if (answer.kind === 'sampling') {
      const content = Array.isArray(answer.result.content) ? answer.result.content[0] : answer.result.content;
      return text(`llm said ${content.text}`);
    }
    const question = { role: 'user', content: { type: 'text', text: prompt } };
    const llm = inputRequired.createMessage({ messages: [question], maxTokens: 50 });
    return inputRequired({ inputRequests: { llm } });
  });
  tool('ask_roots', {}, async (_, ctx) => {
    const answer = inputResponse(ctx.mcpReq.inputResponses, 'roots');
    if (answer.kind === 'roots') return text(`roots ${answer.roots.map(root => root.uri).join(' ')}`);
    return inputRequired({ inputRequests: { roots: inputRequired.listRoots() } });
  });
}

function changingTools(tool) {
  tool('touch', {}, async () => {
    touched++;
    handler.notify.resourceUpdated(`${scheme}://watched`);
    return text(touched);
  });
  tool('add_tool', {}, async () => {
    const name = `extra_${extraTools.length + 1}`;
    extraTools.push(name);
    handler.notify.toolsChanged();
    return text(name);
  });
  for (const name of extraTools) tool(name, {}, async () => text(name));
}

function resourcesAndPrompts(server) {
  const plain = { mimeType: 'text/plain' };
  const contents = (uri, value) => ({ contents: [{ uri: uri.href, ...plain, text: value }] });
  server.registerResource('static', `${scheme}://static`, plain, async uri => contents(uri, 'static text'));
  server.registerResource('watched', `${scheme}://watched`, plain, async uri => contents(uri, `watched ${touched}`));
  server.registerResource('item', new ResourceTemplate(`${scheme}://item/{id}`, { list: undefined }), plain,
    async (uri, { id }) => contents(uri, `item ${id}`));
  const name = completable(z.string(), value => ['alice', 'albert', 'bob'].filter(known => known.startsWith(value)));
  server.registerPrompt('greet', { argsSchema: z.object({ name }) }, async args => ({
    messages: [{ role: 'user', content: { type: 'text', text: `Please greet ${args.name}` } }],
  }));
}

const handler = createMcpHandler(buildServer, { legacy: 'reject' });
const serveMcp = toNodeHandler(handler);

await listen(port, (request, response) => {
  if (request.url.split('?')[0] === '/mcp') return serveMcp(request, response);
  response.writeHead(404).end();
});
