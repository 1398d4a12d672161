/** Lists of a kind: the server's table, of which only the visible part is drawn. */
import { findKind, kindKey, path, api } from './api.js';
import { append, effect, h, onDispose, reconcile, signal, untracked } from './dom.js';
import { plural, since, tone } from './format.js';
import { icon } from './icons.js';
import { go, link, namespace, objectLink, route } from './route.js';
import { BY_NAMESPACE, cellText, gridTracks, nameOf, RowOrder, rowForKey, searchWords, shownColumns, visibleRange } from './rows.js';
import { attempt, confirm, emptyPage, emptyState, live, now } from './ui.js';
import { Table } from './watch.js';
/** @import { Column, Kind, Readable, Row, ShownColumn, Signal } from './types.d.ts' */

/** The height of a row in pixels, as in the style sheet. */
const ROW = 32;

/** @returns {HTMLElement} */
export function listView() {
  const box = h('div.view');
  const wanted = signal('');
  const target = () => {
    const [group = '', name = ''] = route.value.parts;
    return { group: group === 'core' ? '' : group, name };
  };
  effect(() => {
    const { group, name } = target();
    // The query of the address belongs to the list.
    wanted.value = `${kindKey(group, name)} ${group}/${name}?${route.value.query}`;
  });
  effect(() => {
    void wanted.value;
    const { group, name } = untracked(target);
    const kind = untracked(() => findKind(group, name));
    const query = untracked(() => route.value.query);
    box.replaceChildren(
      kind
        ? untracked(() => build(kind, query))
        : emptyPage('No such kind', `The API server does not serve ${name}${group ? ` of ${group}` : ''}.`),
    );
  });
  return box;
}

/**
 * @param {Kind} kind
 * @param {URLSearchParams} query
 * @returns {HTMLElement}
 */
function build(kind, query) {
  const search = signal(query.get('q') ?? '');
  const labels = signal(query.get('labels') ?? '');
  const fields = signal(query.get('fields') ?? '');
  const filtering = signal(Boolean(labels.peek() || fields.peek()));
  const count = signal('');
  /** @type {Signal<ReadonlySet<string>>} */
  const selected = signal(new Set());

  const input = h('input.search', {
    type: 'search',
    placeholder: `Search ${kind.name}`,
    'aria-label': `Search ${kind.name}`,
    value: search.peek(),
    'data-search': true,
    oninput: (/** @type {InputEvent} */ event) => (search.value = /** @type {HTMLInputElement} */ (event.target).value),
  });
  /**
   * @param {string} label
   * @param {string} placeholder
   * @param {typeof labels} target
   */
  const filter = (label, placeholder, target) =>
    h(
      'label.inline',
      null,
      label,
      h('input', {
        placeholder,
        value: target.peek(),
        spellcheck: 'false',
        onchange: (/** @type {Event} */ event) => (target.value = /** @type {HTMLInputElement} */ (event.target).value.trim()),
      }),
    );
  const status = h('div.status');
  const body = h('div.fill');
  effect(() => {
    const scope = {
      namespace: kind.namespaced ? namespace.value : '',
      labels: labels.value,
      fields: fields.value,
    };
    selected.value = new Set();
    const table = new Table(kind, scope);
    status.replaceChildren();
    append(status, [
      h('span.count', { 'aria-live': 'off' }, () => count.value),
      live(() => table.follower.phase.value, () => table.follower.error.value),
    ]);
    body.replaceChildren(untracked(() => grid(kind, table, search, (text) => (count.value = text), selected)));
  });
  const remove = () => {
    const keys = [...selected.peek()];
    confirm(
      `Delete ${plural(keys.length, kind.kind)}`,
      'They are deleted with what they own, in the background.',
      'Delete',
      true,
      () =>
        attempt(`${plural(keys.length, 'deletion')} under way`, () =>
          Promise.all(
            keys.map((key) => {
              const [ns, name] = key.split('/');
              return api(path(kind, ns, name), { method: 'DELETE', body: { kind: 'DeleteOptions', apiVersion: 'v1', propagationPolicy: 'Background' } });
            }),
          ),
        ).then(() => (selected.value = new Set())),
    );
  };
  return h(
    'section.view',
    { 'aria-label': kind.kind },
    h(
      'header.bar',
      null,
      h('h1', null, kind.kind, kind.group ? h('small', null, kind.group) : null),
      h('div.spring'),
      status,
    ),
    h(
      'div.bar.tools',
      { role: 'search' },
      input,
      h(
        'button',
        { type: 'button', 'aria-pressed': () => String(filtering.value), onclick: () => (filtering.value = !filtering.peek()) },
        icon('filter', 14),
        h('span', null, 'Filters'),
      ),
      () => (filtering.value ? [filter('Labels', 'app=web,tier!=db', labels), filter('Fields', 'status.phase=Running', fields)] : null),
      h('div.spring'),
      () =>
        selected.value.size
          ? h('button.danger', { onclick: remove }, icon('trash', 14), h('span', null, `Delete ${selected.value.size}`))
          : null,
      kind.verbs.includes('create')
        ? h('a.button', { href: link('create', [], { kind: `${kind.group || 'core'}/${kind.name}` }) }, icon('plus', 14), h('span', null, 'Create'))
        : null,
    ),
    body,
  );
}

let grids = 0;

/**
 * Returns a virtual list: only the rows in view are in the document.
 *
 * @param {Kind} kind
 * @param {Table} table
 * @param {Readable<string>} search
 * @param {(text: string) => void} count receives the number of rows as a text
 * @param {Signal<ReadonlySet<string>>} [selected] the names of the selected rows
 * @returns {HTMLElement}
 */
export function grid(kind, table, search, count, selected) {
  return new Grid(kind, table, search, count, selected).frame;
}

/**
 * @typedef {object} DrawnRow
 * @property {HTMLElement} element
 * @property {number} version The row's version that is drawn.
 * @property {number} at The row's index that is drawn.
 * @property {HTMLElement[]} cells
 */

class Grid {
  #kind;
  #table;
  #search;
  #count;
  #selected;
  #order;
  #prefix = `row${++grids}-`;
  /** @type {ShownColumn[]} */
  #shown = [];
  /**
   * The table's columns that the header shows.
   *
   * @type {Column[] | null}
   */
  #columns = null;
  /** The key of the row that keys act on. */
  #active = '';
  /** @type {Map<string, DrawnRow>} */
  #drawn = new Map();
  #spacer = h('div.spacer');
  #rows = h('div.rows', { role: 'rowgroup' });
  #head = h('div.row.head', { role: 'row' });
  #empty = h('div.overlay');
  #scroller;

  /**
   * @param {Kind} kind
   * @param {Table} table
   * @param {Readable<string>} search
   * @param {(text: string) => void} count
   * @param {Signal<ReadonlySet<string>> | undefined} selected
   */
  constructor(kind, table, search, count, selected) {
    this.#kind = kind;
    this.#table = table;
    this.#search = search;
    this.#count = count;
    this.#selected = selected;
    this.#order = new RowOrder(table);
    this.#scroller = h(
      'div.grid',
      { role: 'grid', tabindex: 0, 'aria-label': kind.kind, 'aria-multiselectable': selected ? 'true' : null },
      h('div', { role: 'rowgroup', class: 'top' }, this.#head),
      this.#spacer,
    );
    this.#spacer.append(this.#rows);
    /** @readonly */
    this.frame = h('div.fill.gridbox', null, this.#scroller, this.#empty);
    this.#listen();
    this.#follow();
  }

  #withNamespace() {
    return this.#kind.namespaced && !namespace.peek();
  }

  /** Handles events of the DOM. */
  #listen() {
    let asked = false;
    const onScroll = () => {
      if (asked) return;
      asked = true;
      requestAnimationFrame(() => {
        asked = false;
        this.#paint();
      });
    };
    this.#scroller.addEventListener('scroll', onScroll, { passive: true });
    this.#scroller.addEventListener('keydown', (event) => {
      if (this.#onKey(event)) event.preventDefault();
    });
    this.#rows.addEventListener('click', (event) => {
      const target = /** @type {HTMLElement} */ (event.target);
      if (target.closest('a, input, button')) return;
      const row = this.#table.rows.get(/** @type {HTMLElement | null} */ (target.closest('.row'))?.dataset['key'] ?? '');
      if (row && !getSelection()?.toString()) go(objectLink(this.#kind, row.meta));
    });
    const resize = new ResizeObserver(() => {
      if (this.#table.columns.length) this.#drawHead();
      this.#paint();
    });
    resize.observe(this.frame);
    onDispose(() => resize.disconnect());
  }

  /** Draws again when the table, the search or the time changes. */
  #follow() {
    const table = this.#table;
    effect(() => {
      void this.#search.value;
      this.#arrange();
    });
    effect(() => {
      void table.tick.value;
      if (this.#order.update(searchWords(this.#search.peek()))) this.#arranged();
      else this.#paint();
    });
    effect(() => {
      void now.value;
      // Ages grow although no row changes.
      for (const [key, entry] of this.#drawn) {
        const row = table.rows.get(key);
        if (row) this.#fillCells(entry, row, ({ column }) => isAge(column));
      }
    });
    effect(() => {
      void table.tick.value;
      this.#empty.replaceChildren();
      const state = this.#emptyState();
      if (state) this.#empty.append(state);
      this.#empty.hidden = !state;
    });
  }

  /** @returns {HTMLElement | null} */
  #emptyState() {
    const table = this.#table;
    const { name, namespaced } = this.#kind;
    const phase = table.follower.phase.value;
    if (phase === 'failed') return emptyState('Cannot be listed', table.follower.error.value);
    if (phase !== 'live') return null;
    if (!table.rows.size) {
      const where = namespaced && namespace.value ? ` in ${namespace.value}` : '';
      return emptyState(`No ${name}${where}`, 'They appear here as soon as there are some.');
    }
    const search = this.#search.value;
    return search && !this.#order.rows.length ? emptyState('Nothing matches', `No ${name} with “${search}”.`) : null;
  }

  /** Draws the header, and drops the drawn rows, whose cells depend on it. */
  #drawHead() {
    this.#columns = this.#table.columns;
    this.#shown = shownColumns(this.#columns, this.frame.clientWidth > 1000);
    const tracks = gridTracks(this.#shown, { namespaces: this.#withNamespace(), checkboxes: Boolean(this.#selected) });
    this.#scroller.style.setProperty('--columns', tracks);
    this.#drawn.clear();
    this.#rows.replaceChildren();
    this.#head.replaceChildren();
    if (this.#selected) this.#head.append(h('span', { role: 'columnheader' }, this.#selectAll(this.#selected)));
    this.#shown.forEach(({ column, index }, i) => {
      this.#head.append(this.#title(column.name, index, column.description));
      if (i === 0 && this.#withNamespace()) this.#head.append(this.#title('Namespace', BY_NAMESPACE, ''));
    });
  }

  /**
   * Returns a column's title, which sorts by the column.
   *
   * @param {string} name
   * @param {number} by
   * @param {string} description
   * @returns {HTMLElement}
   */
  #title(name, by, description) {
    const { sort } = this.#order;
    const sorted = sort.by === by;
    const onclick = () => {
      this.#order.sort = { by, down: sorted && !sort.down };
      this.#drawHead();
      this.#arrange();
    };
    return h(
      'span',
      { role: 'columnheader', 'aria-sort': sorted ? (sort.down ? 'descending' : 'ascending') : 'none' },
      h(
        'button.sort',
        { title: description || name, onclick },
        name,
        sorted ? h('i', { 'aria-hidden': 'true' }, sort.down ? ' ↓' : ' ↑') : null,
      ),
    );
  }

  /**
   * @param {Signal<ReadonlySet<string>>} selected
   * @returns {HTMLElement}
   */
  #selectAll(selected) {
    return h('input', {
      type: 'checkbox',
      'aria-label': 'Select all',
      onchange: (/** @type {Event} */ event) => {
        const { checked } = /** @type {HTMLInputElement} */ (event.target);
        selected.value = new Set(checked ? this.#order.rows.map(nameOf) : []);
        this.#repaint();
      },
    });
  }

  #arrange() {
    this.#order.arrange(searchWords(this.#search.peek()));
    this.#arranged();
  }

  /** Draws what depends on the number and the order of the rows. */
  #arranged() {
    const { length } = this.#order.rows;
    const { size } = this.#table.rows;
    this.#spacer.style.height = `${length * ROW}px`;
    this.#scroller.setAttribute('aria-rowcount', String(length + 1));
    this.#count(length === size ? plural(length, 'object') : `${length} of ${plural(size, 'object')}`);
    this.#paint();
  }

  /**
   * Writes a row's cells into its element.
   *
   * @param {DrawnRow} entry
   * @param {Row} row
   * @param {(shown: ShownColumn) => boolean} [choose]
   */
  #fillCells(entry, row, choose = () => true) {
    this.#shown.forEach((shown, i) => {
      if (choose(shown)) fillCell(/** @type {HTMLElement} */ (entry.cells[i]), row, shown);
    });
  }

  /**
   * Makes a row's element, with empty cells.
   *
   * @param {Row} row
   * @returns {DrawnRow}
   */
  #makeRow(row) {
    /** @type {HTMLElement[]} */
    const cells = [];
    const element = h('div.row', { role: 'row', 'data-key': row.key, id: `${this.#prefix}${row.key}` });
    if (this.#selected) element.append(h('span', { role: 'gridcell' }, selectBox(row, this.#selected)));
    this.#shown.forEach((_, i) => {
      if (i > 0) {
        const cell = h('span', { role: 'gridcell' });
        element.append(cell);
        cells.push(cell);
        return;
      }
      const a = h('a', { href: objectLink(this.#kind, row.meta), tabindex: -1 });
      element.append(h('span.name', { role: 'gridcell' }, a));
      cells.push(a);
      const space = row.meta.namespace ?? '';
      if (this.#withNamespace()) element.append(h('span.dim', { role: 'gridcell', title: space }, space));
    });
    const entry = { element, version: -1, at: -1, cells };
    this.#drawn.set(row.key, entry);
    return entry;
  }

  /** Draws the rows in view. */
  #paint() {
    if (this.#columns !== this.#table.columns && this.#table.columns.length) this.#drawHead();
    const { scrollTop, clientHeight } = this.#scroller;
    const { rows } = this.#order;
    const [first, last] = visibleRange(scrollTop, clientHeight, ROW, rows.length);
    /** @type {HTMLElement[]} */
    const wanted = [];
    /** @type {Set<string>} */
    const keys = new Set();
    for (let i = first; i < last; i++) {
      const row = /** @type {Row} */ (rows[i]);
      keys.add(row.key);
      wanted.push(this.#paintRow(row, i));
    }
    for (const key of this.#drawn.keys()) if (!keys.has(key)) this.#drawn.delete(key);
    reconcile(this.#rows, wanted);
    // The grid keeps the focus; the attribute names the active row.
    if (keys.has(this.#active)) this.#scroller.setAttribute('aria-activedescendant', `${this.#prefix}${this.#active}`);
    else this.#scroller.removeAttribute('aria-activedescendant');
  }

  /**
   * @param {Row} row
   * @param {number} index
   * @returns {HTMLElement}
   */
  #paintRow(row, index) {
    const entry = this.#drawn.get(row.key) ?? this.#makeRow(row);
    const { element } = entry;
    if (entry.version !== row.version) {
      entry.version = row.version;
      this.#fillCells(entry, row);
      element.classList.toggle('going', Boolean(row.meta.deletionTimestamp));
    }
    element.classList.toggle('active', row.key === this.#active);
    if (this.#selected) element.setAttribute('aria-selected', String(this.#selected.peek().has(nameOf(row))));
    if (entry.at !== index) {
      // Rows have absolute positions, so that scrolling does not repaint them.
      entry.at = index;
      element.style.top = `${index * ROW}px`;
      element.setAttribute('aria-rowindex', String(index + 2));
    }
    return element;
  }

  #repaint() {
    this.#drawn.clear();
    this.#rows.replaceChildren();
    this.#paint();
  }

  /**
   * Handles a key. Returns whether it had a meaning.
   *
   * @param {KeyboardEvent} event
   * @returns {boolean}
   */
  #onKey(event) {
    const { rows } = this.#order;
    const scroller = this.#scroller;
    const at = rows.findIndex((row) => row.key === this.#active);
    const page = Math.max(1, Math.floor(scroller.clientHeight / ROW) - 2);
    const to = event.ctrlKey || event.metaKey ? null : rowForKey(event.key, at, page, rows.length);
    if (to !== null) {
      this.#active = rows[to]?.key ?? '';
      const top = to * ROW;
      if (top < scroller.scrollTop) scroller.scrollTop = top;
      // The header covers the height of one row.
      else if (top + 2 * ROW > scroller.scrollTop + scroller.clientHeight) scroller.scrollTop = top + 2 * ROW - scroller.clientHeight;
      this.#paint();
      return true;
    }
    const row = rows[at];
    if (!row || event.target !== scroller) return false;
    if (event.key === 'Enter') {
      go(objectLink(this.#kind, row.meta));
    } else if (event.key === ' ' && this.#selected) {
      const next = new Set(this.#selected.peek());
      if (!next.delete(nameOf(row))) next.add(nameOf(row));
      this.#selected.value = next;
      this.#repaint();
      return true;
    }
    return false;
  }
}

/**
 * @param {Column} column
 * @returns {boolean}
 */
const isAge = (column) => /^age$/i.test(column.name);

/**
 * Returns the box that selects a row.
 *
 * @param {Row} row
 * @param {Signal<ReadonlySet<string>>} selected
 * @returns {HTMLElement}
 */
function selectBox(row, selected) {
  return h('input', {
    type: 'checkbox',
    tabindex: -1,
    'aria-label': `Select ${row.meta.name}`,
    checked: selected.peek().has(nameOf(row)),
    onchange: (/** @type {Event} */ event) => {
      const next = new Set(selected.peek());
      if (/** @type {HTMLInputElement} */ (event.target).checked) next.add(nameOf(row));
      else next.delete(nameOf(row));
      selected.value = next;
    },
  });
}

/**
 * Writes a value into its cell, if it is not there yet.
 *
 * @param {HTMLElement} cell
 * @param {Row} row
 * @param {ShownColumn} shown
 */
function fillCell(cell, row, { column, index }) {
  const value = isAge(column) && row.meta.creationTimestamp ? since(row.meta.creationTimestamp) : cellText(row, index);
  if (cell.dataset['v'] === value) return;
  cell.dataset['v'] = value;
  cell.title = value;
  if (/^(status|phase|state)$/i.test(column.name)) {
    cell.replaceChildren(h(`span.badge.${row.meta.deletionTimestamp ? 'busy' : tone(value.split(',')[0] ?? '')}`, null, value));
  } else {
    cell.textContent = value === '<none>' ? '–' : value;
  }
}
