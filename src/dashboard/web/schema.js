/** Fields of objects, from the server's OpenAPI v3 documents. */
import { api } from './api.js';
/** @import { Any, Field, Place } from './types.d.ts' */

/** @type {Map<string, Promise<any>>} */
const documents = new Map();

/**
 * Returns the document of an `apiVersion`.
 *
 * @param {string} apiVersion
 * @returns {Promise<Any>}
 */
function document(apiVersion) {
  const known = documents.get(apiVersion);
  if (known) return known;
  const path = apiVersion.includes('/') ? `apis/${apiVersion}` : `api/${apiVersion}`;
  const loading = api('/openapi/v3').then((index) => {
    /** @type {string | undefined} */
    const url = index.paths?.[path]?.serverRelativeURL;
    if (!url) throw new Error(`no schema of ${apiVersion}`);
    return api(url);
  });
  loading.catch(() => documents.delete(apiVersion));
  documents.set(apiVersion, loading);
  return loading;
}

/**
 * @param {Any} doc
 * @param {Any} schema
 * @returns {Any}
 */
function resolve(doc, schema) {
  let at = schema;
  for (let depth = 0; at && depth < 20; depth++) {
    if (at.$ref) at = doc.components?.schemas?.[at.$ref.split('/').pop()];
    else if (at.allOf?.length === 1) at = { ...at, ...at.allOf[0], allOf: undefined, description: at.description };
    else return at;
  }
  return at;
}

/**
 * Returns the document and the schema at a path of a kind; `-` steps into a list.
 *
 * @param {string} apiVersion
 * @param {string} kind
 * @param {string[]} path
 * @returns {Promise<[Any, Any] | null>}
 */
async function follow(apiVersion, kind, path) {
  const doc = await document(apiVersion);
  const [group, version] = apiVersion.includes('/') ? apiVersion.split('/') : ['', apiVersion];
  /** @type {Any[]} */
  const schemas = Object.values(doc.components?.schemas ?? {});
  let at = schemas.find((s) =>
    (s['x-kubernetes-group-version-kind'] ?? []).some((/** @type {Any} */ g) => g.kind === kind && g.version === version && g.group === group),
  );
  for (const step of path) {
    at = resolve(doc, at);
    if (!at) return null;
    if (step === '-') at = at.items;
    else at = at.properties?.[step] ?? (typeof at.additionalProperties === 'object' ? at.additionalProperties : undefined);
  }
  at = resolve(doc, at);
  return at ? [doc, at] : null;
}

/**
 * Returns the fields of an object at a path.
 *
 * @param {string} apiVersion
 * @param {string} kind
 * @param {string[]} path
 * @returns {Promise<Field[]>}
 */
export async function fields(apiVersion, kind, path) {
  const found = await follow(apiVersion, kind, path);
  if (!found) return [];
  const [doc, schema] = found;
  /** @type {Set<string>} */
  const required = new Set(schema.required ?? []);
  return /** @type {[string, any][]} */ (Object.entries(schema.properties ?? {}))
    .map(([name, property]) => {
      const full = resolve(doc, property) ?? {};
      const type = full.type === 'array' ? `[]${resolve(doc, full.items)?.type ?? ''}` : (full.type ?? 'any');
      return { name, type, description: property.description ?? full.description ?? '', required: required.has(name) };
    })
    .sort((a, b) => Number(b.required) - Number(a.required) || a.name.localeCompare(b.name));
}

/**
 * Returns the values of a field that is an enumeration or a boolean.
 *
 * @param {string} apiVersion
 * @param {string} kind
 * @param {string[]} path
 * @returns {Promise<string[]>}
 */
export async function values(apiVersion, kind, path) {
  const found = await follow(apiVersion, kind, path);
  const schema = found?.[1];
  if (schema?.type === 'boolean') return ['true', 'false'];
  return (schema?.enum ?? []).map(String);
}

/**
 * @param {string} line
 * @returns {number}
 */
const indentOf = (line) => /^[ ]*(?:- +)*/.exec(line)?.[0].length ?? 0;

/**
 * Returns the place of the cursor in a document, by indentation.
 *
 * @param {string} text
 * @param {number} cursor
 * @returns {Place}
 */
export function place(text, cursor) {
  const before = text.slice(0, cursor).split('\n');
  const lines = text.split('\n');
  const row = before.length - 1;
  const line = before[row] ?? '';
  const pair = /^([ ]*(?:- +)*)([A-Za-z0-9_$.-]+):\s+(\S*)$/.exec(line);
  const key = pair ? (pair[2] ?? null) : null;
  const typed = pair ? (pair[3] ?? '') : line.slice(indentOf(line));
  /** @type {string[]} */
  const path = [];
  let indent = indentOf(line);
  /**
   * @param {string} of
   * @param {number} below
   */
  const dashes = (of, below) => {
    // `- a:` is both a list's item and its first field.
    for (const match of [...of.matchAll(/- +/g)].reverse()) {
      if ((match.index ?? 0) < below) {
        path.unshift('-');
        indent = Math.min(indent, match.index ?? 0);
      }
    }
  };
  dashes(line.slice(0, indent), indent);
  for (let i = row - 1; i >= 0 && (indent > 0 || path[0] === '-'); i--) {
    const above = lines[i] ?? '';
    if (!above.trim() || above.trim().startsWith('#')) continue;
    const depth = indentOf(above);
    const name = /^[ ]*(?:- +)*([A-Za-z0-9_$./-]+):\s*$/.exec(above)?.[1];
    if (name && (depth < indent || (depth === indent && path[0] === '-'))) {
      path.unshift(name);
      indent = depth;
      dashes(above.slice(0, depth), depth);
    } else if (depth === indent && /- +/.test(above.slice(0, depth)) && path[0] !== '-') {
      dashes(above.slice(0, depth), depth);
    }
  }
  const level = indentOf(line);
  /** @type {string[]} */
  const beside = [];
  for (const step of [-1, 1]) {
    for (let i = row + step; i >= 0 && i < lines.length; i += step) {
      const other = lines[i] ?? '';
      if (!other.trim()) continue;
      const depth = indentOf(other);
      if (depth < level) break;
      const name = depth === level ? /^[ ]*(?:- +)*([A-Za-z0-9_$./-]+):/.exec(other)?.[1] : undefined;
      if (name) beside.push(name);
      if (step < 0 && depth === level && other.trim().startsWith('- ')) break;
      if (step > 0 && depth === level && other.trim().startsWith('- ')) break;
    }
  }
  return { path, typed, key, beside };
}
