/** Writes and highlights YAML. The server reads it. */
/** @import { Token } from './types.d.ts' */

/** Strings that need no quotes, apart from `RESERVED` and `NUMBER`. */
const PLAIN = /^[A-Za-z_./](?:[A-Za-z0-9_./ +()@-]*[A-Za-z0-9_./+()@-])?$/;

/** Words with another meaning, those of YAML 1.1 included, and the end of a document. */
const RESERVED = /^(y|n|yes|no|on|off|true|false|null|~|\.inf|\.nan|\.\.\.)$/i;

const NUMBER = /^[.]\d/;

/** Characters that only an escape in double quotes can express. */
const UNPRINTABLE = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u2028\u2029\ufeff\ufffe\uffff]/;

/**
 * Returns a string as a block scalar, or null when that cannot express it.
 *
 * @param {string} value
 * @param {string} indent
 * @returns {string | null}
 */
function block(value, indent) {
  // White space at the start needs an indentation indicator; at the end of a line,
  // quotes make it visible.
  if (!value.includes('\n') || UNPRINTABLE.test(value) || /^\s/.test(value) || /[ \t]$/m.test(value)) return null;
  const chomping = value.endsWith('\n\n') ? '+' : value.endsWith('\n') ? '' : '-';
  const body = chomping === '+' ? value.slice(0, -1) : value.replace(/\n$/, '');
  return `|${chomping}\n${body.split('\n').map((line) => (line ? indent + line : '')).join('\n')}`;
}

/**
 * Returns a string without line breaks in the text, quoted if it has to be.
 *
 * @param {string} value
 * @returns {string}
 */
function flow(value) {
  if (PLAIN.test(value) && !RESERVED.test(value) && !NUMBER.test(value)) return value;
  // JSON's strings are YAML's double-quoted ones, except for some characters.
  return JSON.stringify(value).replace(new RegExp(UNPRINTABLE, 'g'), (c) => `\\u${c.charCodeAt(0).toString(16).padStart(4, '0')}`);
}

/**
 * Returns a value that has no members.
 *
 * @param {unknown} value
 * @param {string} indent the indentation of a block scalar's lines
 * @returns {string}
 */
function leaf(value, indent) {
  if (value === null || value === undefined) return 'null';
  if (typeof value === 'string') return block(value, indent) ?? flow(value);
  if (typeof value === 'object') return Array.isArray(value) ? '[]' : '{}';
  return JSON.stringify(value);
}

/**
 * Returns whether a value has no members.
 *
 * @param {object} value
 * @returns {boolean}
 */
const isEmpty = (value) => (Array.isArray(value) ? value.length === 0 : Object.values(value).every((item) => item === undefined));

/**
 * Returns whether a value is written over several lines.
 *
 * @param {unknown} value
 * @returns {value is object}
 */
const isNode = (value) => value !== null && typeof value === 'object' && !isEmpty(value);

/**
 * Writes a list or a mapping.
 *
 * @param {object} value
 * @param {string} indent
 * @param {string[]} out
 */
function node(value, indent, out) {
  const deeper = `${indent}  `;
  if (Array.isArray(value)) {
    for (const item of value) {
      if (!isNode(item)) {
        out.push(`${indent}- ${leaf(item, deeper)}`);
        continue;
      }
      /** @type {string[]} */
      const inner = [];
      node(item, deeper, inner);
      inner[0] = `${indent}- ${(inner[0] ?? '').slice(deeper.length)}`;
      for (const line of inner) out.push(line);
    }
    return;
  }
  for (const [key, item] of Object.entries(value)) {
    if (item === undefined) continue;
    const name = flow(key);
    if (isNode(item)) {
      out.push(`${indent}${name}:`);
      node(item, Array.isArray(item) ? indent : deeper, out);
    } else {
      out.push(`${indent}${name}: ${leaf(item, deeper)}`);
    }
  }
}

/**
 * Returns a value as a YAML document.
 *
 * @param {unknown} value
 * @returns {string}
 */
export function write(value) {
  if (!isNode(value)) return `${leaf(value, '  ')}\n`;
  /** @type {string[]} */
  const out = [];
  node(value, '', out);
  return `${out.join('\n')}\n`;
}

/**
 * Splits a line into tokens that are highlighted differently. Their texts make up the
 * line. A line is all it knows: those of a block scalar look like others.
 *
 * @param {string} line
 * @returns {Token[]}
 */
export function tokens(line) {
  /** @type {Token[]} */
  const out = [];
  /**
   * @param {Token['kind']} kind
   * @param {string} text
   */
  const push = (kind, text) => {
    if (text) out.push({ kind, text });
  };
  const lead = /^(\s*(?:- +)*-?\s*)/.exec(line)?.[0] ?? '';
  push('mark', lead);
  let rest = line.slice(lead.length);
  if (rest.startsWith('#') || rest === '---' || lead.trim() === '---') {
    push('comment', rest);
    return out;
  }
  const key = /^("(?:[^"\\]|\\.)*"|[^\s#:"'[\]{}|>&*!][^:#]*?)(\s*:)(?=\s|$)/.exec(rest);
  if (key) {
    push('key', key[1] ?? '');
    push('mark', key[2] ?? '');
    rest = rest.slice(key[0].length);
  }
  const comment = rest.search(/(^|\s)#/);
  const quoted = /^\s*["']/.test(rest);
  const value = comment >= 0 && !quoted ? rest.slice(0, comment) : rest;
  const text = value.trim();
  /** @type {Token['kind']} */
  const kind = /^-?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?$/i.test(text)
    ? 'number'
    : /^(true|false|null|~|\{\}|\[\])$/.test(text)
      ? 'word'
      : /^[|>][0-9+-]*$/.test(text)
        ? 'mark'
        : key || lead.trim() === '-' || quoted
          ? 'string'
          : '';
  push(kind, value);
  if (value.length < rest.length) push('comment', rest.slice(value.length));
  return out;
}
