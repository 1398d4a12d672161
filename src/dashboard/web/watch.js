/** Lists that are kept current by watches: as server-side tables, or as objects. */
import { ApiError, api, path } from './api.js';
import { onDispose, perFrame, signal } from './dom.js';
import { onReconnect, stream } from './streams.js';
/** @import { Any, Change, Column, Kind, Meta, Obj, Phase, Row, Scope, Signal } from './types.d.ts' */

const PAGE = 500;

/** Number of objects above which views are updated a few times per second only. */
const MANY = 500;
const CALM = 250;
const TABLE = 'application/json;as=Table;v=v1;g=meta.k8s.io,application/json';

/**
 * @typedef {object} Event
 * @property {string} type
 * @property {Any} object
 */

/**
 * The format of a list, and what to do with it.
 *
 * @typedef {object} Form
 * @property {string} accept
 * @property {(body: Any) => void} page
 * @property {(event: Event) => void} event
 * @property {() => void} clear
 */

/** Lists in pages, then watches. Lists again when the resource version has expired. */
class Follower {
  /** @readonly @type {Signal<Phase>} */
  phase = signal('loading');
  /** @readonly @type {Signal<string>} */
  error = signal('');
  /** @type {(() => void) | null} */
  #close = null;
  #stopped = false;
  #delay = 250;
  #since = '';
  #timer = 0;
  /** @type {(() => void) | null} */
  #pending = null;
  /** @type {() => void} */
  #forget;

  /** @type {Kind} */
  #kind;
  /** @type {Scope} */
  #scope;
  /** @type {Form} */
  #form;
  /** @type {() => void} */
  #changed;

  /**
   * @param {Kind} kind
   * @param {Scope} scope
   * @param {Form} form
   * @param {() => void} changed
   */
  constructor(kind, scope, form, changed) {
    this.#kind = kind;
    this.#scope = scope;
    this.#form = form;
    this.#changed = changed;
    // A server that can be reached again ends the back-off.
    this.#forget = onReconnect(() => {
      if (this.#timer) this.#pending?.();
    });
    void this.#list();
  }

  stop() {
    this.#stopped = true;
    this.#forget();
    clearTimeout(this.#timer);
    this.#close?.();
  }

  /**
   * @param {Record<string, string>} extra
   * @returns {string}
   */
  #query(extra) {
    const query = new URLSearchParams(extra);
    if (this.#scope.labels) query.set('labelSelector', this.#scope.labels);
    if (this.#scope.fields) query.set('fieldSelector', this.#scope.fields);
    return `${path(this.#kind, this.#scope.namespace)}?${query}`;
  }

  /** @returns {Promise<void>} */
  async #list() {
    try {
      let next = '';
      let first = true;
      do {
        /** @type {Record<string, string>} */
        const extra = { limit: String(PAGE) };
        if (next) extra['continue'] = next;
        const body = await api(this.#query(extra), { accept: this.#form.accept });
        if (this.#stopped) return;
        if (first) this.#form.clear();
        first = false;
        this.#form.page(body);
        this.#changed();
        next = body.metadata?.continue ?? '';
        this.#since = body.metadata?.resourceVersion ?? '';
      } while (next);
      if (!this.#kind.verbs.includes('watch')) {
        this.phase.value = 'live';
        return;
      }
      this.#watch();
    } catch (error) {
      if (this.#stopped) return;
      // An expired page restarts the list at once; other errors wait.
      this.#fail(/** @type {Error} */ (error));
      // The server will not accept an invalid selector later either.
      if (!(error instanceof ApiError && error.status === 400)) this.#again(() => void this.#list());
    }
  }

  /** @param {Error} error */
  #fail(error) {
    this.error.value = error.message;
    this.phase.value = this.phase.peek() === 'loading' ? 'failed' : this.phase.peek() === 'failed' ? 'failed' : 'behind';
  }

  /** @param {() => void} what */
  #again(what) {
    clearTimeout(this.#timer);
    this.#pending = () => {
      clearTimeout(this.#timer);
      this.#timer = 0;
      what();
    };
    this.#timer = window.setTimeout(this.#pending, this.#delay * (0.75 + Math.random() / 2));
    this.#delay = Math.min(this.#delay * 2, 15_000);
  }

  #watch() {
    const decoder = new TextDecoder();
    let rest = '';
    let gone = false;
    const target = this.#query({ watch: '1', resourceVersion: this.#since, allowWatchBookmarks: 'true' });
    this.#close = stream(target, this.#form.accept, {
      opened: () => {
        this.phase.value = 'live';
        this.error.value = '';
        this.#delay = 250;
      },
      data: (bytes) => {
        rest += decoder.decode(bytes, { stream: true });
        let start = 0;
        for (let end = rest.indexOf('\n'); end >= 0; end = rest.indexOf('\n', start)) {
          const line = rest.slice(start, end);
          start = end + 1;
          if (!line) continue;
          const event = /** @type {Event} */ (JSON.parse(line));
          if (event.type === 'ERROR') {
            gone = true;
            continue;
          }
          const version =
            event.object?.metadata?.resourceVersion ?? event.object?.rows?.[0]?.object?.metadata?.resourceVersion;
          if (version) this.#since = version;
          if (event.type !== 'BOOKMARK') this.#form.event(event);
        }
        if (start) rest = rest.slice(start);
        this.#changed();
      },
      ended: (error) => {
        if (this.#stopped) return;
        if (gone || error?.status === 410) {
          void this.#list();
          return;
        }
        if (error) this.#fail(error);
        // Watches end regularly, which is no error.
        this.#again(() => (error instanceof ApiError && error.status === 0 ? void this.#list() : this.#watch()));
      },
    });
  }
}

/**
 * @param {Meta} meta
 * @returns {string}
 */
const keyOf = (meta) => meta.uid ?? `${meta.namespace ?? ''}/${meta.name}`;

/**
 * Returns the metadata that the page needs. Field managers are larger than the rest.
 *
 * @param {Meta} meta
 * @returns {Meta}
 */
function slim(meta) {
  /** @type {Meta} */
  const out = { name: meta.name };
  if (meta.namespace) out.namespace = meta.namespace;
  if (meta.uid) out.uid = meta.uid;
  if (meta.creationTimestamp) out.creationTimestamp = meta.creationTimestamp;
  if (meta.deletionTimestamp) out.deletionTimestamp = meta.deletionTimestamp;
  if (meta.labels) out.labels = meta.labels;
  if (meta.ownerReferences) out.ownerReferences = meta.ownerReferences;
  return out;
}

/** A kind's rows, as the server's table has them. */
export class Table {
  /** @readonly @type {Map<string, Row>} */
  rows = new Map();
  /** @type {Column[]} */
  columns = [];
  /**
   * Changes in every frame in which a row changed.
   *
   * @readonly
   * @type {Signal<number>}
   */
  tick = signal(0);
  /** Whether the list restarted since the view last read it. */
  fresh = true;
  /**
   * The changes of rows since the view last read them, by key.
   *
   * @readonly
   * @type {Map<string, Change>}
   */
  touched = new Map();
  /** @readonly @type {Follower} */
  follower;
  #version = 0;

  /**
   * @param {Kind} kind
   * @param {Scope} scope
   */
  constructor(kind, scope) {
    const tell = perFrame(() => (this.tick.value = this.tick.peek() + 1));
    this.follower = new Follower(
      kind,
      scope,
      {
        accept: TABLE,
        clear: () => {
          this.rows.clear();
          this.touched.clear();
          this.fresh = true;
        },
        page: (body) => this.#take(body),
        event: ({ type, object }) => {
          if (type === 'DELETED') {
            for (const row of object.rows ?? []) {
              const key = keyOf(row.object.metadata);
              if (this.rows.delete(key)) this.touched.set(key, 'gone');
            }
          } else {
            this.#take(object);
          }
        },
      },
      tell,
    );
    onDispose(() => this.follower.stop());
  }

  /** @param {Any} body */
  #take(body) {
    if (body.columnDefinitions?.length) this.columns = body.columnDefinitions;
    for (const row of body.rows ?? []) {
      const key = keyOf(row.object.metadata);
      const known = this.rows.get(key);
      this.#version++;
      if (known) {
        known.cells = row.cells;
        known.meta = slim(row.object.metadata);
        known.version = this.#version;
        if (!this.touched.has(key)) this.touched.set(key, 'changed');
      } else {
        this.rows.set(key, { key, meta: slim(row.object.metadata), cells: row.cells, version: this.#version });
        this.touched.set(key, 'new');
      }
    }
  }
}

/**
 * Compares names, which are ASCII.
 *
 * @param {string} a
 * @param {string} b
 * @returns {number}
 */
const plain = (a, b) => (a < b ? -1 : a > b ? 1 : 0);

/**
 * A kind's objects, or what `keep` returns for each.
 *
 * @template {Obj} [T=Obj]
 */
export class Objects {
  /** @readonly @type {Map<string, T>} */
  items = new Map();
  /** @readonly @type {Signal<number>} */
  tick = signal(0);
  /** @readonly @type {Follower} */
  follower;
  /** @type {T[] | null} */
  #sorted = null;
  /**
   * Keys in order, followed by those of new objects.
   *
   * @type {string[]}
   */
  #keys = [];
  #ordered = true;

  /**
   * @param {Kind} kind
   * @param {Scope} scope
   * @param {(o: Obj) => T} [keep]
   */
  constructor(kind, scope, keep = (o) => /** @type {T} */ (o)) {
    // Aggregates of thousands of objects need not follow every frame.
    const tell = perFrame(
      () => (this.tick.value = this.tick.peek() + 1),
      () => (this.items.size > MANY ? CALM : 0),
    );
    /** @param {Obj} o */
    const put = (o) => {
      delete o.metadata.managedFields;
      const key = keyOf(o.metadata);
      if (!this.items.has(key)) {
        this.#keys.push(key);
        this.#ordered = false;
      }
      this.items.set(key, keep(o));
    };
    this.follower = new Follower(
      kind,
      scope,
      {
        accept: 'application/json',
        clear: () => {
          this.items.clear();
          this.#keys = [];
        },
        page: (body) => (body.items ?? []).forEach(put),
        event: ({ type, object }) => {
          if (type !== 'DELETED') put(object);
          else if (this.items.delete(keyOf(object.metadata))) this.#ordered = false;
        },
      },
      () => {
        this.#sorted = null;
        tell();
      },
    );
    onDispose(() => this.follower.stop());
  }

  /**
   * All objects by namespace and name. Effects that read it depend on the list.
   *
   * @returns {T[]}
   */
  get list() {
    void this.tick.value;
    if (this.#sorted) return this.#sorted;
    if (this.#ordered) this.#sorted = this.#keys.map((key) => /** @type {T} */ (this.items.get(key)));
    else {
      /** @type {Set<string>} */
      const known = new Set();
      /** @type {[string, T][]} */
      const left = [];
      for (const key of this.#keys) {
        const item = this.items.get(key);
        if (!item || known.has(key)) continue;
        known.add(key);
        left.push([key, item]);
      }
      // Sorting is cheap: the keys are almost in order.
      left.sort(([, a], [, b]) => plain(a.metadata.namespace ?? '', b.metadata.namespace ?? '') || plain(a.metadata.name, b.metadata.name));
      this.#keys = left.map(([key]) => key);
      this.#sorted = left.map(([, item]) => item);
      this.#ordered = true;
    }
    return this.#sorted;
  }
}
