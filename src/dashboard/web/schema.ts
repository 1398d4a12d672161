/** What fields an object may have, from the server's OpenAPI v3 documents. */
import { api, type Any } from './api.js';

const documents = new Map<string, Promise<Any>>();

/** The document of an `apiVersion`. */
function document(apiVersion: string): Promise<Any> {
  const known = documents.get(apiVersion);
  if (known) return known;
  const path = apiVersion.includes('/') ? `apis/${apiVersion}` : `api/${apiVersion}`;
  const loading = api('/openapi/v3').then((index) => {
    const url: string | undefined = index.paths?.[path]?.serverRelativeURL;
    if (!url) throw new Error(`no schema of ${apiVersion}`);
    return api(url);
  });
  loading.catch(() => documents.delete(apiVersion));
  documents.set(apiVersion, loading);
  return loading;
}

function resolve(doc: Any, schema: Any): Any {
  let at = schema;
  for (let depth = 0; at && depth < 20; depth++) {
    if (at.$ref) at = doc.components?.schemas?.[at.$ref.split('/').pop()];
    else if (at.allOf?.length === 1) at = { ...at, ...at.allOf[0], allOf: undefined, description: at.description };
    else return at;
  }
  return at;
}

export interface Field {
  name: string;
  type: string;
  description: string;
  required: boolean;
}

/** The schema of a kind, followed along `path`; numbers step into lists. */
async function follow(apiVersion: string, kind: string, path: string[]): Promise<[Any, Any] | null> {
  const doc = await document(apiVersion);
  const [group, version] = apiVersion.includes('/') ? apiVersion.split('/') : ['', apiVersion];
  const schemas: Any[] = Object.values(doc.components?.schemas ?? {});
  let at = schemas.find((s) =>
    (s['x-kubernetes-group-version-kind'] ?? []).some((g: Any) => g.kind === kind && g.version === version && g.group === group),
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

/** The fields that an object has at `path`. */
export async function fields(apiVersion: string, kind: string, path: string[]): Promise<Field[]> {
  const found = await follow(apiVersion, kind, path);
  if (!found) return [];
  const [doc, schema] = found;
  const required = new Set<string>(schema.required ?? []);
  return Object.entries<Any>(schema.properties ?? {})
    .map(([name, property]) => {
      const full = resolve(doc, property) ?? {};
      const type = full.type === 'array' ? `[]${resolve(doc, full.items)?.type ?? ''}` : (full.type ?? 'any');
      return { name, type, description: property.description ?? full.description ?? '', required: required.has(name) };
    })
    .sort((a, b) => Number(b.required) - Number(a.required) || a.name.localeCompare(b.name));
}

/** The values that a field may have, where they are counted. */
export async function values(apiVersion: string, kind: string, path: string[]): Promise<string[]> {
  const found = await follow(apiVersion, kind, path);
  const schema = found?.[1];
  if (schema?.type === 'boolean') return ['true', 'false'];
  return (schema?.enum ?? []).map(String);
}

export interface Place {
  /** Field names from the top; `-` steps into a list. */
  path: string[];
  /** What has been typed of a name, or of the value of `key`. */
  typed: string;
  key: string | null;
  /** Names that stand beside it. */
  beside: string[];
}

const indentOf = (line: string): number => /^[ ]*(?:- +)*/.exec(line)?.[0].length ?? 0;

/** Where in a document the cursor is, by indentation. */
export function place(text: string, cursor: number): Place {
  const before = text.slice(0, cursor).split('\n');
  const lines = text.split('\n');
  const row = before.length - 1;
  const line = before[row] ?? '';
  const pair = /^([ ]*(?:- +)*)([A-Za-z0-9_$.-]+):\s+(\S*)$/.exec(line);
  const key = pair ? (pair[2] ?? null) : null;
  const typed = pair ? (pair[3] ?? '') : line.slice(indentOf(line));
  const path: string[] = [];
  let indent = indentOf(line);
  const dashes = (of: string, below: number) => {
    // `- a:` is a list's item and its first field in one.
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
  const beside: string[] = [];
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
