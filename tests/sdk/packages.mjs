// Where the scripts of this folder find their npm packages, and how its servers listen.
//
// The packages live in <repo>/.cache/sdk/node_modules, not beside the scripts, and an ESM `import` would only look
// beside them. So they are loaded with a `require` that is rooted there; PORTUNUS_MODULES names another folder.
import fs from 'node:fs';
import http from 'node:http';
import { createRequire } from 'node:module';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

export const here = path.dirname(fileURLToPath(import.meta.url));
const repo = path.resolve(here, '../..');

const folders = [process.env.PORTUNUS_MODULES, `${repo}/.cache/sdk/node_modules`, `${here}/node_modules`];
const modules = folders.find(folder => folder && fs.existsSync(`${folder}/@modelcontextprotocol`));
if (!modules) {
  console.error(`no npm packages in ${folders.filter(Boolean).join(' or ')}: run npm ci with tests/sdk/package.json`);
  process.exit(2);
}

export const require = createRequire(path.resolve(modules, 'x.cjs'));

/**
 * Serves `handler` on both loopback addresses (clients differ in what `localhost` means to them) and prints
 * `listening on PORT` as the first line of stdout. Port 0 takes a free one.
 */
export async function listen(port, handler) {
  const bound = await listenOn('127.0.0.1', Number(port), handler);
  await listenOn('::1', bound, handler).catch(error => {
    if (error.code !== 'EADDRNOTAVAIL' && error.code !== 'EAFNOSUPPORT') throw error;
  });
  console.log(`listening on ${bound}`);
  return bound;
}

function listenOn(host, port, handler) {
  // requestTimeout 0: a request that waits for the client's answer, or a stream, may last longer than Node's default
  const server = http.createServer({ requestTimeout: 0 }, handler);
  return new Promise((resolve, reject) => {
    server.once('error', reject);
    server.listen(port, host, () => resolve(server.address().port));
  });
}
