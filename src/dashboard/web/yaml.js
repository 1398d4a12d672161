/** Writes YAML, and colours it. Reading is the server's business. */
/** @import { Token } from './types.d.ts' */

const PLAIN = /^[A-Za-z_./][A-Za-z0-9_./ +()@-]*$/;
/* Words that YAML 1.1 readers take for something else. */
const WORDS = /^(y|n|yes|no|on|off|true|false|null|~|\.inf|\.nan)$/i;

/**
 * @param {unknown} value
 * @param {string} indent
 * @returns {string}
 */
function scalar(value, indent) {
  if (value === null || value === undefined) return 'null';
  if (typeof value !== 'string') return JSON.stringify(value);
  if (value.includes('\n') && !/[\u0000-\u0008\u000b-\u001f\u007f\u0085\u2028\u2029\ufeff]/.test(value) && !/^\s/.test(value) && !/[ \t]\n/.test(value)) {
    const tail = value.endsWith('\n\n') ? '+' : value.endsWith('\n') ? '' : '-';
    const body = tail === '+' ? value.slice(0, -1) : value.replace(/\n$/, '');
    return `|${tail}\n${body.split('\n').map((line) => (line ? indent + line : '')).join('\n')}`;
  }
  if (PLAIN.test(value) && !WORDS.test(value) && !value.endsWith(' ') && !/^[.]?\d/.test(value)) return value;
  // JSON's strings are YAML's double-quoted ones.
  return JSON.stringify(value).replace(/[\u007f-\u009f\u2028\u2029\ufeff]/g, (c) => `\\u${c.charCodeAt(0).toString(16).padStart(4, '0')}`);
}

/**
 * @param {unknown} value
 * @returns {boolean}
 */
const empty = (value) =>
  Array.isArray(value) ? value.length === 0 : Object.keys(/** @type {object} */ (value)).length === 0;

/**
 * @param {unknown} value
 * @param {string} indent
 * @param {string[]} out
 */
function node(value, indent, out) {
  if (Array.isArray(value)) {
    for (const item of value) {
      if (item !== null && typeof item === 'object' && !empty(item)) {
        /** @type {string[]} */
        const inner = [];
        node(item, `${indent}  `, inner);
        inner[0] = `${indent}- ${(inner[0] ?? '').slice(indent.length + 2)}`;
        out.push(...inner);
      } else {
        out.push(`${indent}- ${leaf(item, `${indent}  `)}`);
      }
    }
    return;
  }
  for (const [key, item] of Object.entries(/** @type {object} */ (value))) {
    if (item === undefined) continue;
    const name = scalar(key, '');
    if (item !== null && typeof item === 'object' && !empty(item)) {
      out.push(`${indent}${name}:`);
      node(item, Array.isArray(item) ? indent : `${indent}  `, out);
    } else {
      out.push(`${indent}${name}: ${leaf(item, `${indent}  `)}`);
    }
  }
}

/**
 * @param {unknown} value
 * @param {string} indent
 * @returns {string}
 */
function leaf(value, indent) {
  if (value !== null && typeof value === 'object') return Array.isArray(value) ? '[]' : '{}';
  return scalar(value, indent);
}

/**
 * A document.
 *
 * @param {unknown} value
 * @returns {string}
 */
export function write(value) {
  if (value === null || typeof value !== 'object' || empty(value)) return `${leaf(value, '  ')}\n`;
  /** @type {string[]} */
  const out = [];
  node(value, '', out);
  return `${out.join('\n')}\n`;
}

/**
 * One line's tokens.
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
  const kind = /^-?[0-9.]+$/.test(text)
    ? 'number'
    : /^(true|false|null|~|\{\}|\[\])$/.test(text)
      ? 'word'
      : /^[|>][+-]?$/.test(text)
        ? 'mark'
        : key || lead.trim() === '-' || quoted
          ? 'string'
          : '';
  push(kind, value);
  if (value.length < rest.length) push('comment', rest.slice(value.length));
  return out;
}
