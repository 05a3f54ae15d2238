// fixture_server.mjs : what fixture.mjs serves, on the TypeScript SDK v2.
//
// The names, texts and schemas are the contract of the conformance suite: `conformance server --scenario X` prints
// each part. Tools that ask the client for something return `inputRequired(…)`: a modern client answers by calling
// again, for a legacy one the SDK sends the requests itself.
import { setTimeout as sleep } from 'node:timers/promises';
import { require } from './packages.mjs';

const {
  CLIENT_CAPABILITIES_META_KEY, McpServer, ResourceTemplate, acceptedContent, completable, createRequestStateCodec,
  fromJsonSchema, inputRequired, inputResponse,
} = require('@modelcontextprotocol/server');
const z = require('zod/v4');

const PNG = 'iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8DwHwAFBQIAX8jx0gAAAABJRU5ErkJggg==';
const WAV = 'UklGRiYAAABXQVZFZm10IBAAAAABAAEAQB8AAAB9AAACABAAZGF0YQIAAAAAAA==';

// A constant key, so that two processes behind one gateway can answer two rounds of one call.
const requestState = createRequestStateCodec({
  key: 'conformance fixture: not a secret', bind: ctx => ctx.mcpReq.method,
});

const text = value => ({ content: [{ type: 'text', text: value }] });
const image = { type: 'image', data: PNG, mimeType: 'image/png' };
const message = content => ({ role: 'user', content });

/**
 * A server for one legacy session or one modern request. `world` is what they share: `present` says whether the tool
 * and the prompt that come and go are there, `toggle(kind)` changes that, `updated(uri)` reports a changed resource.
 */
export function buildServer(world) {
  const server = new McpServer({ name: 'conformance-fixture', version: '1.0.0' }, {
    capabilities: {
      tools: { listChanged: true }, prompts: { listChanged: true }, resources: { listChanged: true, subscribe: true },
      logging: {}, completions: {},
    },
    requestState: { verify: requestState.verify },
  });
  contentTools(server);
  callTools(server);
  askingTools(server);
  inputRequiredTools(server);
  schemaTools(server);
  const dynamic = triggerTools(server, world);
  resources(server);
  prompts(server);
  return { server, dynamic };
}

function addTool(server, name, description, inputSchema, run) {
  return server.registerTool(name, { description, inputSchema: z.object(inputSchema) }, run);
}

function contentTools(server) {
  const tool = (name, description, ...content) =>
    addTool(server, name, description, {}, async () => ({ content }));
  // First of the list: the suite calls whatever is first, without arguments.
  tool('test_simple_text', 'Answers with text', { type: 'text', text: 'This is a simple text response for testing.' });
  tool('test_image_content', 'Answers with an image', image);
  tool('test_audio_content', 'Answers with audio', { type: 'audio', data: WAV, mimeType: 'audio/wav' });
  tool('test_embedded_resource', 'Answers with an embedded resource', {
    type: 'resource',
    resource: {
      uri: 'test://embedded-resource', mimeType: 'text/plain', text: 'This is an embedded resource content.',
    },
  });
  tool('test_multiple_content_types', 'Answers with text, an image and a resource',
    { type: 'text', text: 'Multiple content types test:' }, image, {
      type: 'resource',
      resource: {
        uri: 'test://mixed-content-resource', mimeType: 'application/json',
        text: JSON.stringify({ test: 'data', value: 123 }),
      },
    });
}

function callTools(server) {
  const tool = (name, description, run) => addTool(server, name, description, {}, async (_, ctx) => run(ctx));
  tool('test_error_handling', 'Always fails', () => {
    throw new Error('This tool intentionally returns an error for testing');
  });
  tool('test_tool_with_logging', 'Logs three times', async ctx => {
    await ctx.mcpReq.log('info', 'Tool execution started');
    await sleep(50);
    await ctx.mcpReq.log('info', 'Tool processing data');
    await sleep(50);
    await ctx.mcpReq.log('info', 'Tool execution completed');
    return text('Logged three messages');
  });
  tool('test_logging_tool', 'Logs once, if the request asks for logs', async ctx => {
    await ctx.mcpReq.log('info', 'one message');
    return text('Logged one message');
  });
  tool('test_tool_with_progress', 'Reports progress three times', async ctx => {
    for (const progress of [0, 50, 100]) {
      await reportProgress(ctx, progress);
      if (progress < 100) await sleep(50);
    }
    return text('Reported progress');
  });
  tool('test_reconnection', 'Closes its stream before it answers, so that the client must resume', async ctx => {
    ctx.http?.closeSSE?.();
    await sleep(100);
    return text('Answered after the stream was closed');
  });
}

async function reportProgress(ctx, progress) {
  const progressToken = ctx.mcpReq._meta?.progressToken;
  if (progressToken === undefined) return;
  await ctx.mcpReq.notify({ method: 'notifications/progress', params: { progressToken, progress, total: 100 } });
}

const stringFields = (...names) => ({
  type: 'object',
  properties: Object.fromEntries(names.map(name => [name, { type: 'string' }])),
  required: names,
});
const elicit = (message, requestedSchema) => inputRequired.elicit({ message, requestedSchema });
const sample = (prompt, maxTokens = 100) =>
  inputRequired.createMessage({ messages: [message({ type: 'text', text: prompt })], maxTokens });

function sampledText(view) {
  const content = Array.isArray(view.result.content) ? view.result.content[0] : view.result.content;
  return content.text;
}

/** Tools that put one question to the client and report its answer. */
function askingTools(server) {
  addTool(server, 'test_sampling', 'Asks the client\'s model', { prompt: z.string() }, async ({ prompt }, ctx) => {
    const answer = inputResponse(ctx.mcpReq.inputResponses, 'llm');
    if (answer.kind !== 'sampling') return inputRequired({ inputRequests: { llm: sample(prompt) } });
    return text(`LLM response: ${sampledText(answer)}`);
  });
  const asks = (name, description, schema, question, label) =>
    addTool(server, name, description, schema, async (args, ctx) => {
      const answer = inputResponse(ctx.mcpReq.inputResponses, 'answer');
      if (answer.kind !== 'elicit') return inputRequired({ inputRequests: { answer: question(args) } });
      return text(`${label}: action=${answer.action}, content=${JSON.stringify(answer.content ?? {})}`);
    });
  asks('test_elicitation', 'Asks the user for a name and an address', { message: z.string() },
    args => elicit(args.message, {
      type: 'object',
      properties: {
        username: { type: 'string', description: "User's response" },
        email: { type: 'string', description: "User's email address" },
      },
      required: ['username', 'email'],
    }), 'User response');
  asks('test_elicitation_sep1034_defaults', 'Asks with a default for every primitive type', {},
    () => elicit('Please check the defaults', DEFAULTS_SCHEMA), 'Elicitation completed');
  asks('test_elicitation_sep1330_enums', 'Asks with every kind of enum', {},
    () => elicit('Please choose', ENUMS_SCHEMA), 'Elicitation completed');
  addTool(server, 'test_streaming_elicitation', 'Reports progress, then asks the user', {}, async (_, ctx) => {
    await reportProgress(ctx, 50);
    const answer = inputResponse(ctx.mcpReq.inputResponses, 'answer');
    if (answer.kind === 'elicit') return text(`Elicitation ${answer.action}`);
    return inputRequired({ inputRequests: { answer: elicit('Please confirm', stringFields('confirmation')) } });
  });
  // Without the capability the SDK refuses the question of a modern call itself: -32021, HTTP 400. A legacy client is
  // asked in any case, as by the servers that never look at what it declared.
  addTool(server, 'test_missing_capability', 'Needs a client that declares sampling', {}, async (_, ctx) => {
    const question = sample('Can you sample?');
    if (!ctx.mcpReq.envelope) {
      await ctx.mcpReq.send(question);
      return text('The client can sample');
    }
    const answer = inputResponse(ctx.mcpReq.inputResponses, 'llm');
    if (answer.kind === 'sampling') return text('The client can sample');
    return inputRequired({ inputRequests: { llm: question } });
  });
}

const DEFAULTS_SCHEMA = {
  type: 'object',
  properties: {
    name: { type: 'string', default: 'John Doe' },
    age: { type: 'integer', default: 30 },
    score: { type: 'number', default: 95.5 },
    status: { type: 'string', enum: ['active', 'inactive', 'pending'], default: 'active' },
    verified: { type: 'boolean', default: true },
  },
};

const titled = (...pairs) => pairs.map(([value, title]) => ({ const: value, title }));
const ENUMS_SCHEMA = {
  type: 'object',
  properties: {
    untitledSingle: { type: 'string', enum: ['option1', 'option2', 'option3'] },
    titledSingle: {
      type: 'string',
      oneOf: titled(['value1', 'First Option'], ['value2', 'Second Option'], ['value3', 'Third Option']),
    },
    legacyEnum: {
      type: 'string', enum: ['opt1', 'opt2', 'opt3'], enumNames: ['Option One', 'Option Two', 'Option Three'],
    },
    untitledMulti: { type: 'array', items: { type: 'string', enum: ['option1', 'option2', 'option3'] } },
    titledMulti: {
      type: 'array',
      items: { anyOf: titled(['value1', 'First Choice'], ['value2', 'Second Choice'], ['value3', 'Third Choice']) },
    },
  },
};

/** The capabilities of the client behind this call: per request in the modern era, per session before. */
function declared(server, ctx) {
  return ctx.mcpReq.envelope?.[CLIENT_CAPABILITIES_META_KEY] ?? server.server.getClientCapabilities() ?? {};
}

/** SEP-2322: results that ask for input, in one round, in several, with and without sealed state. */
function inputRequiredTools(server) {
  const tool = (name, description, run) =>
    addTool(server, `test_input_required_result_${name}`, description, {},
      async (_, ctx) => run(ctx, ctx.mcpReq.inputResponses));
  const askName = elicit('What is your name?', stringFields('name'));
  const nameIn = (responses, key) => acceptedContent(responses, key, z.object({ name: z.string() }))?.name;

  tool('elicitation', 'Asks for a name', (_, responses) => {
    const name = nameIn(responses, 'user_name');
    return name === undefined ? inputRequired({ inputRequests: { user_name: askName } }) : text(`Hello, ${name}!`);
  });
  tool('sampling', 'Asks the model for a capital', (_, responses) => {
    const answer = inputResponse(responses, 'capital_question');
    if (answer.kind === 'sampling') return text(sampledText(answer));
    return inputRequired({ inputRequests: { capital_question: sample('What is the capital of France?') } });
  });
  tool('list_roots', 'Asks for the roots', (_, responses) => {
    const answer = inputResponse(responses, 'client_roots');
    if (answer.kind === 'roots') return text(`Roots: ${answer.roots.map(root => root.uri).join(', ')}`);
    return inputRequired({ inputRequests: { client_roots: inputRequired.listRoots() } });
  });
  tool('multiple_inputs', 'Asks for three things at once', async (ctx, responses) => {
    const name = nameIn(responses, 'user_name');
    const greeting = inputResponse(responses, 'greeting');
    const roots = inputResponse(responses, 'client_roots');
    if (name !== undefined && greeting.kind === 'sampling' && roots.kind === 'roots') {
      return text(`${sampledText(greeting)} ${name}, ${roots.roots.length} root(s)`);
    }
    return inputRequired({
      inputRequests: {
        user_name: askName, greeting: sample('Generate a greeting', 50), client_roots: inputRequired.listRoots(),
      },
      requestState: await requestState.mint({ tool: 'multiple_inputs' }, ctx),
    });
  });
  tool('multi_round', 'Asks twice, one question after the other', async (ctx, responses) => {
    const state = ctx.mcpReq.requestState();
    const name = state?.name ?? nameIn(responses, 'step1');
    const color = acceptedContent(responses, 'step2', z.object({ color: z.string() }))?.color;
    if (state?.name !== undefined && color !== undefined) return text(`${name} likes ${color}`);
    const [key, question] = name === undefined
      ? ['step1', elicit('Step 1: What is your name?', stringFields('name'))]
      : ['step2', elicit('Step 2: What is your favorite color?', stringFields('color'))];
    return inputRequired({
      inputRequests: { [key]: question },
      requestState: await requestState.mint({ tool: 'multi_round', name }, ctx),
    });
  });
  tool('capabilities', 'Asks only for what the client can do', ctx => {
    const can = declared(server, ctx);
    const inputRequests = {};
    if (can.sampling) inputRequests.greeting = sample('Generate a greeting');
    if (can.elicitation) inputRequests.user_name = askName;
    if (can.roots) inputRequests.client_roots = inputRequired.listRoots();
    const answered = Object.keys(inputRequests).every(key => ctx.mcpReq.inputResponses?.[key]);
    return answered ? text(`Answered: ${Object.keys(inputRequests).join(', ')}`) : inputRequired({ inputRequests });
  });
  for (const name of ['request_state', 'tampered_state']) {
    tool(name, 'Asks for a confirmation and seals its state', async (ctx, responses) => {
      const confirmed = acceptedContent(responses, 'confirm', z.object({ ok: z.boolean() }));
      if (confirmed && ctx.mcpReq.requestState()?.tool === name) return text('state-ok');
      const schema = { type: 'object', properties: { ok: { type: 'boolean' } }, required: ['ok'] };
      return inputRequired({
        inputRequests: { confirm: elicit('Please confirm', schema) },
        requestState: await requestState.mint({ tool: name }, ctx),
      });
    });
  }
}

function schemaTools(server) {
  server.registerTool('json_schema_2020_12_tool', {
    description: 'Tool with JSON Schema 2020-12 features',
    inputSchema: fromJsonSchema(JSON_SCHEMA_2020_12),
  }, async args => text(JSON.stringify(args)));
  server.registerTool('test_x_mcp_header', {
    description: 'Its arguments travel as Mcp-Param-* headers too',
    inputSchema: fromJsonSchema({
      type: 'object',
      properties: {
        region: { type: 'string', 'x-mcp-header': 'Region' },
        priority: { type: 'integer', 'x-mcp-header': 'Priority' },
      },
      required: ['region'],
    }),
  }, async ({ region, priority }) => text(`region=${region} priority=${priority ?? 'none'}`));
}

const JSON_SCHEMA_2020_12 = {
  $schema: 'https://json-schema.org/draft/2020-12/schema',
  type: 'object',
  $defs: {
    address: {
      $anchor: 'addressDef',
      type: 'object',
      properties: { street: { type: 'string' }, city: { type: 'string' } },
    },
  },
  properties: {
    name: { type: 'string' },
    address: { $ref: '#/$defs/address' },
    contactMethod: { type: 'string', enum: ['phone', 'email'] },
    phone: { type: 'string' },
    email: { type: 'string' },
  },
  allOf: [{ anyOf: [{ required: ['phone'] }, { required: ['email'] }] }],
  if: { properties: { contactMethod: { const: 'phone' } }, required: ['contactMethod'] },
  then: { required: ['phone'] },
  else: { required: ['email'] },
  additionalProperties: false,
};

/** Tools that change the lists, and the tool and the prompt that come and go with them. */
function triggerTools(server, world) {
  const dynamic = {
    tool: addTool(server, 'test_dynamic_tool', 'Comes and goes', {}, async () => text('still here')),
    prompt: server.registerPrompt('test_dynamic_prompt', { description: 'Comes and goes' },
      async () => ({ messages: [message({ type: 'text', text: 'still here' })] })),
  };
  for (const [kind, handle] of Object.entries(dynamic)) handle.update({ enabled: world.present[kind] });
  const trigger = (name, description, run) => addTool(server, name, description, {}, async () => {
    await run();
    return text('done');
  });
  trigger('test_trigger_tool_change', 'Changes the list of tools', () => world.toggle('tool'));
  trigger('test_trigger_prompt_change', 'Changes the list of prompts', () => world.toggle('prompt'));
  trigger('test_trigger_resource_update', 'Reports a change of test://watched-resource',
    () => world.updated('test://watched-resource'));
  return dynamic;
}

function resources(server) {
  const fixed = (name, uri, mimeType, content) =>
    server.registerResource(name, uri, { description: `${name} resource`, mimeType },
      async () => ({ contents: [{ uri, mimeType, ...content }] }));
  fixed('static-text', 'test://static-text', 'text/plain',
    { text: 'This is the content of the static text resource.' });
  fixed('static-binary', 'test://static-binary', 'image/png', { blob: PNG });
  fixed('watched', 'test://watched-resource', 'text/plain', { text: 'Watched resource content.' });
  server.registerResource('template', new ResourceTemplate('test://template/{id}/data', { list: undefined }),
    { description: 'Resource with a parameter', mimeType: 'application/json' },
    async (uri, { id }) => ({
      contents: [{
        uri: uri.href, mimeType: 'application/json',
        text: JSON.stringify({ id, templateTest: true, data: `Data for ID: ${id}` }),
      }],
    }));
}

function prompts(server) {
  const completed = completable(z.string().describe('First test argument'),
    value => ['paris', 'park', 'party'].filter(word => word.startsWith(value)));
  server.registerPrompt('test_simple_prompt', { description: 'A prompt without arguments' },
    async () => ({ messages: [message({ type: 'text', text: 'This is a simple prompt for testing.' })] }));
  server.registerPrompt('test_prompt_with_arguments', {
    description: 'A prompt with two arguments',
    argsSchema: z.object({ arg1: completed, arg2: z.string().describe('Second test argument') }),
  }, async ({ arg1, arg2 }) => ({
    messages: [message({ type: 'text', text: `Prompt with arguments: arg1='${arg1}', arg2='${arg2}'` })],
  }));
  server.registerPrompt('test_prompt_with_embedded_resource', {
    description: 'A prompt with a resource',
    argsSchema: z.object({ resourceUri: z.string().describe('URI of the resource to embed') }),
  }, async ({ resourceUri }) => ({
    messages: [
      message({
        type: 'resource',
        resource: { uri: resourceUri, mimeType: 'text/plain', text: 'Embedded resource content for testing.' },
      }),
      message({ type: 'text', text: 'Please process the embedded resource above.' }),
    ],
  }));
  server.registerPrompt('test_prompt_with_image', { description: 'A prompt with an image' },
    async () => ({ messages: [message(image), message({ type: 'text', text: 'Please analyze the image above.' })] }));
  server.registerPrompt('test_input_required_result_prompt', { description: 'A prompt that asks first' }, async ctx => {
    const given = acceptedContent(ctx.mcpReq.inputResponses, 'user_context', z.object({ context: z.string() }));
    if (given) return { messages: [message({ type: 'text', text: `Context: ${given.context}` })] };
    const question = elicit('What context should the prompt use?', stringFields('context'));
    return inputRequired({ inputRequests: { user_context: question } });
  });
}
