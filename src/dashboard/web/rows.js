/** Which rows and columns a list shows and in which order. Does not use the DOM. */
import { natural, quantity } from './format.js';
/** @import { Change, Column, Meta, Row, ShownColumn, Sort } from './types.d.ts' */

/** The column number that stands for the namespace, which is no column of the server's. */
export const BY_NAMESPACE = -2;

/** Rows that are drawn above and below the visible ones. */
const OVERSCAN = 8;

/** More changed rows than this are sorted with all others rather than one by one. */
const MIN_FULL_SORT = 64;

/**
 * Returns the name of a row that is unique among the rows of its kind.
 *
 * @param {{ meta: Meta }} row
 * @returns {string}
 */
export const nameOf = (row) => `${row.meta.namespace ?? ''}/${row.meta.name}`;

/**
 * Returns the text of a row's cell.
 *
 * @param {Row} row
 * @param {number} index
 * @returns {string}
 */
export function cellText(row, index) {
  const value = row.cells[index];
  return value === null || value === undefined ? '' : String(value);
}

/**
 * Returns the words of a search in lower case.
 *
 * @param {string} search
 * @returns {string[]}
 */
export const searchWords = (search) => search.toLowerCase().split(/\s+/).filter(Boolean);

/**
 * Returns whether a row contains every word.
 *
 * @param {Row} row
 * @param {string[]} words
 * @returns {boolean}
 */
export function matches(row, words) {
  if (!words.length) return true;
  const text = `${row.meta.name} ${row.meta.namespace ?? ''} ${row.cells.join(' ')}`.toLowerCase();
  return words.every((word) => text.includes(word));
}

/**
 * Returns the columns to show: those of priority 0, and in a wide window some others.
 *
 * @param {Column[]} columns
 * @param {boolean} wide
 * @returns {ShownColumn[]}
 */
export function shownColumns(columns, wide) {
  return columns
    .map((column, index) => ({ column, index }))
    .filter(({ column }) => column.priority === 0 || (wide && /^(ip|node|images?|containers|selector)$/i.test(column.name)));
}

/**
 * Returns the tracks of the CSS grid for some columns.
 *
 * @param {ShownColumn[]} shown
 * @param {{ namespaces: boolean; checkboxes: boolean }} options
 * @returns {string}
 */
export function gridTracks(shown, { namespaces, checkboxes }) {
  /** @type {string[]} */
  const tracks = shown.map(({ column }, i) => {
    if (i === 0) return 'minmax(160px, 2.4fr)';
    if (/^age$/i.test(column.name)) return '72px';
    if (/^(status|reason)$/i.test(column.name)) return 'minmax(132px, 1.1fr)';
    return 'minmax(70px, 1fr)';
  });
  if (namespaces) tracks.splice(1, 0, 'minmax(90px, 1fr)');
  if (checkboxes) tracks.unshift('32px');
  return tracks.join(' ');
}

/**
 * Returns the rows to draw, as the first index and the one after the last.
 *
 * @param {number} scrollTop
 * @param {number} clientHeight
 * @param {number} rowHeight
 * @param {number} count
 * @returns {[number, number]}
 */
export function visibleRange(scrollTop, clientHeight, rowHeight, count) {
  const first = Math.max(0, Math.floor(scrollTop / rowHeight) - OVERSCAN);
  const last = Math.min(count, Math.ceil((scrollTop + clientHeight) / rowHeight) + OVERSCAN);
  return [first, last];
}

/**
 * Returns the index of the row that a key moves to, or null for other keys.
 *
 * @param {string} key
 * @param {number} from -1 where no row is active
 * @param {number} page
 * @param {number} count
 * @returns {number | null}
 */
export function rowForKey(key, from, page, count) {
  /** @type {Record<string, number>} */
  const targets = { ArrowDown: from + 1, j: from + 1, ArrowUp: from - 1, k: from - 1, PageDown: from + page, PageUp: from - page, Home: 0, End: count - 1 };
  const target = Object.hasOwn(targets, key) ? targets[key] : undefined;
  if (target === undefined || count === 0) return null;
  return Math.min(count - 1, Math.max(0, target));
}

/** The rows of a table that match a search, in order. */
export class RowOrder {
  /** @type {Row[]} */
  rows = [];
  /** @type {Sort} */
  sort = { by: -1, down: false };
  /** @type {{ columns: Column[]; rows: Map<string, Row>; touched: Map<string, Change>; fresh: boolean }} */
  #table;

  /** @param {{ columns: Column[]; rows: Map<string, Row>; touched: Map<string, Change>; fresh: boolean }} table */
  constructor(table) {
    this.#table = table;
  }

  /**
   * Compares two rows by the sorted column, then by namespace and name.
   *
   * @param {Row} a
   * @param {Row} b
   * @returns {number}
   */
  compare(a, b) {
    const result = this.#compareColumn(a, b) || natural(a.meta.namespace ?? '', b.meta.namespace ?? '') || natural(a.meta.name, b.meta.name);
    return this.sort.down ? -result : result;
  }

  /**
   * @param {Row} a
   * @param {Row} b
   * @returns {number}
   */
  #compareColumn(a, b) {
    const { by } = this.sort;
    if (by === BY_NAMESPACE) return natural(a.meta.namespace ?? '', b.meta.namespace ?? '');
    if (by < 0) return 0;
    if (/^age$/i.test(this.#table.columns[by]?.name ?? '')) {
      return (b.meta.creationTimestamp ?? '').localeCompare(a.meta.creationTimestamp ?? '');
    }
    const [x, y] = [cellText(a, by), cellText(b, by)];
    const [p, q] = [quantity(x), quantity(y)];
    return Number.isNaN(p) || Number.isNaN(q) ? natural(x, y) : p - q;
  }

  /**
   * Sorts all rows.
   *
   * @param {string[]} words
   */
  arrange(words) {
    this.#table.fresh = false;
    this.#table.touched.clear();
    this.rows = [...this.#table.rows.values()].filter((row) => matches(row, words));
    this.rows.sort((a, b) => this.compare(a, b));
  }

  /**
   * Moves the rows that changed since the last call, and returns whether there are
   * any: sorting thousands of rows at every change would cost frames.
   *
   * @param {string[]} words
   * @returns {boolean}
   */
  update(words) {
    const { touched, rows, fresh } = this.#table;
    if (fresh || touched.size > Math.max(MIN_FULL_SORT, this.rows.length / 8)) {
      this.arrange(words);
      return true;
    }
    // A change of a row's cells moves it only in a search or an order by a column.
    const byContent = words.length > 0 || this.sort.by >= 0;
    /** @type {Set<string>} */
    const moved = new Set();
    for (const [key, change] of touched) if (byContent || change !== 'changed') moved.add(key);
    touched.clear();
    if (!moved.size) return false;
    this.rows = this.rows.filter((row) => !moved.has(row.key));
    for (const key of moved) {
      const row = rows.get(key);
      if (row && matches(row, words)) this.#insert(row);
    }
    return true;
  }

  /** @param {Row} row */
  #insert(row) {
    let [low, high] = [0, this.rows.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.compare(/** @type {Row} */ (this.rows[middle]), row) < 0) low = middle + 1;
      else high = middle;
    }
    this.rows.splice(low, 0, row);
  }
}
