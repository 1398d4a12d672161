/** Reads a JSON value per line, and writes it as YAML in a JSON string per line. */
import { createInterface } from 'node:readline';
import { write } from '../yaml.js';

for await (const line of createInterface({ input: process.stdin, crlfDelay: Infinity })) {
  console.log(JSON.stringify(write(JSON.parse(line))));
}
