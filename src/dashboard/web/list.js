/** Lists of a kind: the server's table, drawn a screenful at a time. */
import { findKind, kindKey, path, api } from './api.js';
import { append, effect, h, onDispose, reconcile, signal, untracked } from './dom.js';
import { natural, plural, quantity, since, tone } from './format.js';
import { icon } from './icons.js';
import { go, link, namespace, objectLink, route } from './route.js';
import { attempt, confirm, emptyPage, emptyState, live, now } from './ui.js';
import { Table } from './watch.js';
/** @import { Column, Kind, Row, Signal } from './types.d.ts' */

const ROW = 32;
const SPARE = 8;

/**
 * @typedef {object} Shown
 * @property {Column} column
 * @property {number} index
 */

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
    // Another query is another list of the same kind.
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
 * The rows; `search` narrows them, columns sort them.
 *
 * @param {Kind} kind
 * @param {Table} table
 * @param {{ readonly value: string; peek(): string }} search
 * @param {(text: string) => void} count
 * @param {{ value: ReadonlySet<string>; peek(): ReadonlySet<string> }} [selected]
 * @returns {HTMLElement}
 */
export function grid(
  kind,
  table,
  search,
  count,
  selected,
) {
  /** @type {Signal<{ by: number; down: boolean; }>} */
  const sort = signal({ by: -1, down: false });
  const spacer = h('div.spacer');
  const rows = h('div.rows', { role: 'rowgroup' });
  const head = h('div.row.head', { role: 'row' });
  const scroller = h('div.grid', { role: 'grid', tabindex: 0, 'aria-label': kind.kind, 'aria-multiselectable': selected ? 'true' : null }, h('div', { role: 'rowgroup', class: 'top' }, head), spacer);
  spacer.append(rows);
  const empty = h('div.overlay');
  const frame = h('div.fill.gridbox', null, scroller, empty);

  const prefix = `row${++grids}-`;
  /** @type {Row[]} */
  let order = [];
  /** @type {Shown[]} */
  let shown = [];
  /** @type {Column[] | null} */
  let columnsOf = null;
  let active = '';
  /** @type {Map<string, { element: HTMLElement; version: number; at: number; cells: HTMLElement[]; }>} */
  const drawn = new Map();
  const withNamespace = () => kind.namespaced && !namespace.peek();

  const columns = () => {
    columnsOf = table.columns;
    const wide = frame.clientWidth > 1000;
    shown = table.columns
      .map((column, index) => ({ column, index }))
      .filter(({ column }) => column.priority === 0 || (wide && /^(ip|node|images?|containers|selector)$/i.test(column.name)));
    /** @type {string[]} */
    const widths = shown.map(({ column }, i) => (i === 0 ? 'minmax(160px, 2.4fr)' : /^age$/i.test(column.name) ? '72px' : /^(status|reason)$/i.test(column.name) ? 'minmax(132px, 1.1fr)' : 'minmax(70px, 1fr)'));
    if (withNamespace()) widths.splice(1, 0, 'minmax(90px, 1fr)');
    if (selected) widths.unshift('32px');
    scroller.style.setProperty('--columns', widths.join(' '));
    drawn.clear();
    rows.replaceChildren();
    head.replaceChildren();
    if (selected) head.append(h('span', { role: 'columnheader' }, all()));
    /**
     * @param {string} name
     * @param {number} by
     * @param {string} description
     */
    const title = (name, by, description) => {
      const state = sort.peek();
      const mine = state.by === by;
      head.append(
        h(
          'span',
          { role: 'columnheader', 'aria-sort': mine ? (state.down ? 'descending' : 'ascending') : 'none' },
          h(
            'button.sort',
            {
              title: description || name,
              onclick: () => {
                sort.value = { by, down: mine ? !state.down : false };
                columns();
                arrange();
              },
            },
            name,
            mine ? h('i', { 'aria-hidden': 'true' }, state.down ? ' ↓' : ' ↑') : null,
          ),
        ),
      );
    };
    shown.forEach(({ column, index }, i) => {
      title(column.name, index, column.description);
      if (i === 0 && withNamespace()) title('Namespace', -2, '');
    });
  };

  const all = () =>
    h('input', {
      type: 'checkbox',
      'aria-label': 'Select all',
      onchange: (/** @type {Event} */ event) => {
        if (!selected) return;
        const on = /** @type {HTMLInputElement} */ (event.target).checked;
        selected.value = new Set(on ? order.map((r) => nameOf(r)) : []);
        repaint();
      },
    });

  /**
   * @param {Row} row
   * @param {number} index
   * @returns {string}
   */
  const text = (row, index) => {
    const value = row.cells[index];
    return value === null || value === undefined ? '' : String(value);
  };

  /**
   * @param {Row} a
   * @param {Row} b
   * @returns {number}
   */
  const compare = (a, b) => {
    const { by, down } = sort.peek();
    let result = 0;
    if (by === -2) result = natural(a.meta.namespace ?? '', b.meta.namespace ?? '');
    else if (by >= 0) {
      const name = table.columns[by]?.name ?? '';
      if (/^age$/i.test(name)) result = (b.meta.creationTimestamp ?? '').localeCompare(a.meta.creationTimestamp ?? '');
      else {
        const [x, y] = [text(a, by), text(b, by)];
        const [p, q] = [quantity(x), quantity(y)];
        result = Number.isNaN(p) || Number.isNaN(q) ? natural(x, y) : p - q;
      }
    }
    if (result === 0) result = natural(a.meta.namespace ?? '', b.meta.namespace ?? '') || natural(a.meta.name, b.meta.name);
    return down ? -result : result;
  };

  const wantedWords = () => search.peek().toLowerCase().split(/\s+/).filter(Boolean);
  /**
   * @param {Row} row
   * @param {string[]} words
   * @returns {boolean}
   */
  const matches = (row, words) => {
    if (!words.length) return true;
    const hay = `${row.meta.name} ${row.meta.namespace ?? ''} ${row.cells.join(' ')}`.toLowerCase();
    return words.every((w) => hay.includes(w));
  };

  /** Puts all rows in order. */
  const arrange = () => {
    table.fresh = false;
    table.touched.clear();
    const words = wantedWords();
    order = [...table.rows.values()].filter((row) => matches(row, words));
    order.sort(compare);
    arranged();
  };

  /** Puts what changed in order: sorting thousands at every change would cost frames. */
  const rearrange = () => {
    if (table.fresh || table.touched.size > Math.max(64, order.length / 8)) return arrange();
    const words = wantedWords();
    // Of what has changed, only a sort by a column or a search depends.
    const sorted = words.length > 0 || sort.peek().by >= 0;
    /** @type {Set<string>} */
    const moved = new Set();
    for (const [key, change] of table.touched) if (sorted || change !== 'changed') moved.add(key);
    table.touched.clear();
    if (!moved.size) return paint();
    order = order.filter((row) => !moved.has(row.key));
    for (const key of moved) {
      const row = table.rows.get(key);
      if (!row || !matches(row, words)) continue;
      let [low, high] = [0, order.length];
      while (low < high) {
        const middle = (low + high) >> 1;
        if (compare(/** @type {Row} */ (order[middle]), row) < 0) low = middle + 1;
        else high = middle;
      }
      order.splice(low, 0, row);
    }
    arranged();
  };

  const arranged = () => {
    spacer.style.height = `${order.length * ROW}px`;
    scroller.setAttribute('aria-rowcount', String(order.length + 1));
    count(order.length === table.rows.size ? plural(order.length, 'object') : `${order.length} of ${plural(table.rows.size, 'object')}`);
    paint();
  };

  /** @param {Row} row */
  const nameOf = (row) => `${row.meta.namespace ?? ''}/${row.meta.name}`;

  /**
   * @param {HTMLElement} cell
   * @param {Row} row
   * @param {Shown} options
   */
  const fillCell = (cell, row, { column, index }) => {
    const value = /^age$/i.test(column.name) && row.meta.creationTimestamp ? since(row.meta.creationTimestamp) : text(row, index);
    if (cell.dataset['v'] === value) return;
    cell.dataset['v'] = value;
    cell.title = value;
    if (/^(status|phase|state)$/i.test(column.name)) {
      cell.replaceChildren(h(`span.badge.${row.meta.deletionTimestamp ? 'busy' : tone(value.split(',')[0] ?? '')}`, null, value));
    } else {
      cell.textContent = value === '<none>' ? '–' : value;
    }
  };

  /** @param {Row} row */
  const make = (row) => {
    /** @type {HTMLElement[]} */
    const cells = [];
    const element = h('div.row', { role: 'row', 'data-key': row.key, id: `${prefix}${row.key}` });
    if (selected) {
      element.append(
        h(
          'span',
          { role: 'gridcell' },
          h('input', {
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
          }),
        ),
      );
    }
    shown.forEach((_, i) => {
      if (i === 0) {
        const a = h('a', { href: objectLink(kind, row.meta), tabindex: -1 });
        element.append(h('span.name', { role: 'gridcell' }, a));
        cells.push(a);
        if (withNamespace()) element.append(h('span.dim', { role: 'gridcell', title: row.meta.namespace ?? '' }, row.meta.namespace ?? ''));
      } else {
        const cell = h('span', { role: 'gridcell' });
        element.append(cell);
        cells.push(cell);
      }
    });
    const entry = { element, version: -1, at: -1, cells };
    drawn.set(row.key, entry);
    return entry;
  };

  const paint = () => {
    if (columnsOf !== table.columns && table.columns.length) columns();
    const first = Math.max(0, Math.floor(scroller.scrollTop / ROW) - SPARE);
    const last = Math.min(order.length, Math.ceil((scroller.scrollTop + scroller.clientHeight) / ROW) + SPARE);
    /** @type {HTMLElement[]} */
    const wanted = [];
    /** @type {Set<string>} */
    const keys = new Set();
    for (let i = first; i < last; i++) {
      const row = /** @type {Row} */ (order[i]);
      const entry = drawn.get(row.key) ?? make(row);
      keys.add(row.key);
      if (entry.version !== row.version) {
        entry.version = row.version;
        shown.forEach((s, c) => fillCell(/** @type {HTMLElement} */ (entry.cells[c]), row, s));
        entry.element.classList.toggle('going', Boolean(row.meta.deletionTimestamp));
      }
      entry.element.classList.toggle('active', row.key === active);
      if (selected) entry.element.setAttribute('aria-selected', String(selected.peek().has(nameOf(row))));
      if (entry.at !== i) {
        // Each at its own place: scrolling moves none, so none is painted again.
        entry.at = i;
        entry.element.style.top = `${i * ROW}px`;
        entry.element.setAttribute('aria-rowindex', String(i + 2));
      }
      wanted.push(entry.element);
    }
    for (const key of drawn.keys()) if (!keys.has(key)) drawn.delete(key);
    reconcile(rows, wanted);
    // Focus stays on the grid; this tells which of its rows is meant.
    if (keys.has(active)) scroller.setAttribute('aria-activedescendant', `${prefix}${active}`);
    else scroller.removeAttribute('aria-activedescendant');
  };

  const repaint = () => {
    drawn.clear();
    rows.replaceChildren();
    paint();
  };

  let asked = false;
  scroller.addEventListener('scroll', () => {
    if (asked) return;
    asked = true;
    requestAnimationFrame(() => {
      asked = false;
      paint();
    });
  }, { passive: true });
  scroller.addEventListener('keydown', (event) => {
    const at = order.findIndex((r) => r.key === active);
    const page = Math.max(1, Math.floor(scroller.clientHeight / ROW) - 2);
    /** @type {Record<string, number>} */
    const steps = { ArrowDown: at + 1, j: at + 1, ArrowUp: at - 1, k: at - 1, PageDown: at + page, PageUp: at - page, Home: 0, End: order.length - 1 };
    const to = steps[event.key];
    if (to !== undefined && order.length && !event.ctrlKey && !event.metaKey) {
      const index = Math.min(order.length - 1, Math.max(0, to));
      active = order[index]?.key ?? '';
      const top = index * ROW;
      if (top < scroller.scrollTop) scroller.scrollTop = top;
      else if (top + 2 * ROW > scroller.scrollTop + scroller.clientHeight) scroller.scrollTop = top + 2 * ROW - scroller.clientHeight;
      paint();
      event.preventDefault();
    } else if (event.key === 'Enter' && event.target === scroller && order[at]) {
      go(objectLink(kind, /** @type {Row} */ (order[at]).meta));
    } else if (event.key === ' ' && event.target === scroller && selected && order[at]) {
      const name = nameOf(/** @type {Row} */ (order[at]));
      const next = new Set(selected.peek());
      if (!next.delete(name)) next.add(name);
      selected.value = next;
      repaint();
      event.preventDefault();
    }
  });
  rows.addEventListener('click', (event) => {
    const target = /** @type {HTMLElement} */ (event.target);
    if (target.closest('a, input, button')) return;
    const row = table.rows.get(/** @type {HTMLElement | null} */ (target.closest('.row'))?.dataset['key'] ?? '');
    if (row && !getSelection()?.toString()) go(objectLink(kind, row.meta));
  });
  const resize = new ResizeObserver(() => {
    if (table.columns.length) columns();
    paint();
  });
  resize.observe(frame);
  onDispose(() => resize.disconnect());

  effect(() => {
    void search.value;
    arrange();
  });
  effect(() => {
    void table.tick.value;
    rearrange();
  });
  effect(() => {
    void now.value;
    // Ages grow although nothing changes.
    for (const [key, entry] of drawn) {
      const row = table.rows.get(key);
      if (row) shown.forEach((s, c) => /^age$/i.test(s.column.name) && fillCell(/** @type {HTMLElement} */ (entry.cells[c]), row, s));
    }
  });
  effect(() => {
    void table.tick.value;
    const phase = table.follower.phase.value;
    empty.replaceChildren();
    if (phase === 'failed') empty.append(emptyState('Cannot be listed', table.follower.error.value));
    else if (phase === 'live' && !table.rows.size) {
      const where = kind.namespaced && namespace.value ? ` in ${namespace.value}` : '';
      empty.append(emptyState(`No ${kind.name}${where}`, 'They appear here as soon as there are some.'));
    } else if (phase === 'live' && search.value && !order.length) empty.append(emptyState('Nothing matches', `No ${kind.name} with “${search.value}”.`));
    empty.hidden = !empty.childElementCount;
  });
  return frame;
}
