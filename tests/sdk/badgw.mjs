// badgw.mjs PORT UPSTREAM_ORIGIN [FAULT | FAULT=VALUE]... : a streaming reverse proxy with deliberate faults.
//
// It shows that a harness can fail: one that stays green on a fault does not test for it. Without a fault it is a
// plain proxy, and every harness must be green on it. badgw.mjs --list names the faults.
import http from 'node:http';
import { Transform } from 'node:stream';
import { listen } from './packages.mjs';

const deleting = (...names) => headers => names.forEach(name => delete headers[name]);

/** Faults in the headers of the request. */
const requestHeaders = {
  host: headers => { headers.host = upstream.host; },
  'drop-session': deleting('mcp-session-id'),
  'drop-version': deleting('mcp-protocol-version'),
  'drop-name': deleting('mcp-name', 'mcp-method'),
  'drop-param': headers => deleting(...Object.keys(headers).filter(name => name.startsWith('mcp-param-')))(headers),
  'drop-last-event-id': deleting('last-event-id'),
  'accept-json': headers => { headers.accept = 'application/json'; },
};

/** Methods that the gateway refuses itself. */
const refusedMethods = { 'no-get': 'GET', 'no-delete': 'DELETE' };

/** Faults in the status and the headers of the answer. */
const answerHeads = {
  'drop-session-out': answer => deleting('mcp-session-id')(answer.headers),
  'status-200': answer => { if (answer.status >= 400) answer.status = 200; },
  'status-404': answer => { if (answer.status === 404) answer.status = 502; },
};

/** Faults in the body of the answer: each makes a stream that the body passes through. */
const answerBodies = {
  'drop-comments': () => eachText(text => text.replace(/^:.*\n\n?/gm, '')),
  'drop-notify': () => eachEvent(event => /"method":\s*"notifications\/(progress|message)"/.test(event) ? '' : event),
  mangle: () => eachText(text => text.replace(/\\u2028|\u2028/g, ' ')),
  truncate: () => {
    let seen = 0;
    return new Transform({
      transform(chunk, _, done) {
        seen += chunk.length;
        done(null, seen < 500000 ? chunk : undefined);
      },
    });
  },
};

/** Faults that the proxy's own flow below asks about. */
const flow = {
  'no-202': '202 becomes 200 {}',
  buffer: 'the whole answer is collected first',
  'late-headers': 'headers wait for the first byte of the body',
  cut: 'every answer ends after VALUE seconds (2)',
  idle: 'an answer ends after VALUE silent seconds (2)',
  'no-cancel': 'a client that goes away is not noticed',
  'body-limit': 'request bodies over 100 kB get 413',
  serial: 'one request at a time',
};

function eachText(edit) {
  const decoder = new TextDecoder();
  return new Transform({
    transform(chunk, _, done) {
      done(null, edit(decoder.decode(chunk, { stream: true })));
    },
    flush(done) {
      done(null, edit(decoder.decode()));
    },
  });
}

function eachEvent(edit) {
  const decoder = new TextDecoder();
  let buffered = '';
  return new Transform({
    transform(chunk, _, done) {
      const parts = (buffered + decoder.decode(chunk, { stream: true })).split(/(?<=\r?\n\r?\n)/);
      buffered = /\r?\n\r?\n$/.test(parts.at(-1)) ? '' : parts.pop();
      done(null, parts.map(edit).join(''));
    },
    flush(done) {
      done(null, buffered);
    },
  });
}

const kinds = [requestHeaders, refusedMethods, answerHeads, answerBodies, flow];
const known = kinds.flatMap(kind => Object.keys(kind));

const [port, origin, ...asked] = process.argv.slice(2);
if (port === '--list') {
  console.log(known.join('\n'));
  process.exit(0);
}
const faults = new Map(asked.map(fault => fault.split('=')));
const unknown = [...faults.keys()].filter(fault => !known.includes(fault));
if (!origin || unknown.length) {
  console.error(`usage: badgw.mjs PORT UPSTREAM_ORIGIN [FAULT]...${unknown.length ? `; no fault ${unknown}` : ''}`);
  process.exit(2);
}
const upstream = new URL(origin);
const has = fault => faults.has(fault);
const active = kind => Object.keys(kind).filter(has).map(fault => kind[fault]);
const agent = new http.Agent({ keepAlive: true, maxSockets: 2048 });
let queue = Promise.resolve();

function proxy(request, response) {
  if (active(refusedMethods).includes(request.method)) return response.writeHead(405).end();
  const headers = { ...request.headers };
  active(requestHeaders).forEach(fault => fault(headers));
  const { hostname, port } = upstream;
  const host = hostname.replace(/^\[|\]$/g, '');
  const forwarded = http.request({ host, port, path: request.url, method: request.method, headers, agent });
  forwarded.on('response', body => answer(body, response));
  forwarded.on('error', error => {
    if (response.headersSent) return response.destroy();
    response.writeHead(502).end(String(error));
  });
  if (!has('no-cancel')) response.on('close', () => { if (!response.writableEnded) forwarded.destroy(); });
  if (has('body-limit')) limitBody(request, response, forwarded);
  if (!has('serial')) return request.pipe(forwarded);
  queue = queue.then(() => new Promise(done => {
    response.on('close', done);
    request.pipe(forwarded);
  }));
}

function limitBody(request, response, forwarded) {
  let seen = 0;
  request.on('data', chunk => {
    seen += chunk.length;
    if (seen <= 100000) return;
    forwarded.destroy();
    if (!response.headersSent) response.writeHead(413).end();
  });
}

function answer(body, response) {
  const head = { status: body.statusCode, headers: { ...body.headers } };
  active(answerHeads).forEach(fault => fault(head));
  if (has('no-202') && head.status === 202) return answerWhole(response, 200, head.headers, '{}', 'application/json');
  if (has('buffer')) {
    const chunks = [];
    body.on('data', chunk => chunks.push(chunk));
    body.on('end', () => answerWhole(response, head.status, head.headers, Buffer.concat(chunks)));
    return;
  }
  const edits = active(answerBodies).map(make => make());
  if (edits.length && head.headers['content-length']) {
    delete head.headers['content-length'];
    head.headers['transfer-encoding'] = 'chunked';
  }
  response.writeHead(head.status, head.headers);
  if (!has('late-headers')) response.flushHeaders();
  if (has('cut')) cutAfter(faults.get('cut') ?? 2, response);
  if (has('idle')) cutWhenIdle(faults.get('idle') ?? 2, body, response);
  body.on('error', () => response.destroy());
  edits.reduce((stream, edit) => stream.pipe(edit), body).pipe(response);
}

function answerWhole(response, status, headers, body, type = headers['content-type']) {
  delete headers['transfer-encoding'];
  headers['content-length'] = body.length;
  if (type) headers['content-type'] = type;
  response.writeHead(status, headers).end(body);
}

function cutAfter(seconds, response) {
  const timer = setTimeout(() => response.destroy(), seconds * 1000);
  response.on('close', () => clearTimeout(timer));
}

function cutWhenIdle(seconds, body, response) {
  let timer = setTimeout(() => response.destroy(), seconds * 1000);
  body.on('data', () => timer.refresh());
  response.on('close', () => clearTimeout(timer));
}

await listen(port, proxy);
