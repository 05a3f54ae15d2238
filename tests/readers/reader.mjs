// Reads messages as servers written in JavaScript do, one a line, and says what stands at each place.

import { createInterface } from "node:readline";

const PLACES = [
  ["method"],
  ["params", "name"],
  ["params", "uri"],
  ["params", "ref", "type"],
  ["params", "ref", "name"],
  ["params", "ref", "uri"],
  ["params", "arguments", "amount"],
  ["params", "arguments", "account", "id"],
  ["params", "arguments", "filter", "min"],
  ["params", "arguments", "filter", "max"],
  ["params", "arguments", "region"],
  ["params", "inputResponses", "q", "action"],
];

const isObject = (value) => typeof value === "object" && value !== null && !Array.isArray(value);

const at = (message, place) =>
  place.reduce((value, key) => (isObject(value) && Object.hasOwn(value, key) ? value[key] : null), message);

let answers = [];
const flush = () => {
  process.stdout.write(answers.join(""));
  answers = [];
};

for await (const line of createInterface({ input: process.stdin })) {
  let answer = "null";
  try {
    const message = JSON.parse(line);
    answer = JSON.stringify(PLACES.map((place) => at(message, place)));
  } catch {
    // No server reads it.
  }
  answers.push(answer + "\n");
  // Who asks waits for the answers to as many.
  if (answers.length === 1000) flush();
}
flush();
