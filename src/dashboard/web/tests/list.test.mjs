import assert from 'node:assert/strict';
import { test } from 'node:test';
// The modules use the document when they load.
import { frame, location, settle } from './support.mjs';
import { profile } from '../api.js';
import { root, signal } from '../dom.js';
import { grid } from '../list.js';

profile.value = 'test';

const kind = { group: '', version: 'v1', kind: 'Pod', name: 'pods', namespaced: true, verbs: ['list'], short: [], subresources: [] };
const column = (name) => ({ name, type: 'string', format: '', priority: 0, description: `${name} of it` });
const ROW = 32;

/** A list of `count` pods whose window shows ten rows. */
async function list(count, { select = false } = {}) {
  const table = {
    rows: new Map(),
    columns: [column('Name'), column('Status')],
    tick: signal(0),
    fresh: true,
    touched: new Map(),
    follower: { phase: signal('live'), error: signal('') },
  };
  let versions = 0;
  const put = (i, status = 'Running') => {
    const key = `uid-${i}`;
    const known = table.rows.get(key);
    const row = known ?? { key, meta: { name: `pod-${i}`, namespace: 'default' }, cells: [], version: 0 };
    row.cells = [row.meta.name, status];
    row.version = ++versions;
    table.rows.set(key, row);
    table.touched.set(key, known ? 'changed' : 'new');
  };
  for (let i = 0; i < count; i++) put(i);
  const search = signal('');
  const selected = select ? signal(new Set()) : undefined;
  const shown = { count: '' };
  const [element, dispose] = root(() => grid(kind, table, search, (text) => (shown.count = text), selected));
  const [scroller] = element.all('grid');
  scroller.clientHeight = 10 * ROW;
  const tick = async () => {
    table.tick.value++;
    await settle();
  };
  await tick();
  scroller.fire('scroll');
  await frame();
  const [rows] = element.all('rows');
  return {
    element, scroller, rows, table, put, search, selected, shown, tick, dispose,
    drawn: () => rows.children.map((r) => r.all('name')[0].textContent),
    row: (i) => rows.children.find((r) => r.dataset.key === `uid-${i}`),
    scroll: async (to) => {
      scroller.scrollTop = to;
      scroller.fire('scroll');
      await frame();
    },
  };
}

test('only rows in view are drawn', async () => {
  const l = await list(10_000);
  assert.deepEqual(l.drawn(), Array.from({ length: 18 }, (_, i) => `pod-${i}`));
  assert.equal(l.element.all('spacer')[0].style.height, `${10_000 * ROW}px`);
  assert.equal(l.scroller.getAttribute('aria-rowcount'), '10001');
  assert.equal(l.shown.count, '10,000 objects');
  await l.scroll(5000 * ROW);
  assert.equal(l.drawn().length, 26);
  assert.equal(l.drawn()[8], 'pod-5000');
  assert.equal(l.row(5000).style.top, `${5000 * ROW}px`);
  assert.equal(l.row(5000).getAttribute('aria-rowindex'), '5002');
  await l.scroll(10_000 * ROW - 10 * ROW);
  assert.equal(l.drawn().at(-1), 'pod-9999');
});

test('scrolling keeps the elements of rows that stay in view', async () => {
  const l = await list(100);
  const before = l.row(10);
  await l.scroll(5 * ROW);
  assert.equal(l.row(10), before);
  await l.scroll(80 * ROW);
  assert.equal(l.row(10), undefined);
});

test('a change is drawn in its row', async () => {
  const l = await list(5);
  const before = l.row(3);
  l.put(3, 'Failed');
  await l.tick();
  assert.equal(l.row(3), before);
  assert.equal(before.all('badge')[0].textContent, 'Failed');
  assert.ok(before.all('badge')[0].classList.contains('bad'));
});

test('rows come and go', async () => {
  const l = await list(3);
  l.put(10);
  await l.tick();
  assert.deepEqual(l.drawn(), ['pod-0', 'pod-1', 'pod-2', 'pod-10']);
  l.table.rows.delete('uid-1');
  l.table.touched.set('uid-1', 'gone');
  await l.tick();
  assert.deepEqual(l.drawn(), ['pod-0', 'pod-2', 'pod-10']);
  assert.equal(l.row(10).style.top, `${2 * ROW}px`);
  assert.equal(l.shown.count, '3 objects');
});

test('a search narrows the list', async () => {
  const l = await list(30);
  l.search.value = 'pod-2';
  await settle();
  assert.equal(l.drawn().length, 11);
  assert.equal(l.shown.count, '11 of 30 objects');
  l.search.value = 'none such';
  await settle();
  assert.deepEqual(l.drawn(), []);
  const overlay = l.element.all('overlay')[0];
  assert.ok(!overlay.hidden);
  assert.match(overlay.textContent, /No pods with “none such”/);
  l.search.value = '';
  await settle();
  assert.equal(l.drawn().length, 18);
  assert.ok(overlay.hidden);
});

test('an empty list and a failed one say so', async () => {
  const l = await list(0);
  const overlay = l.element.all('overlay')[0];
  assert.match(overlay.textContent, /No pods/);
  l.table.follower.error.value = 'forbidden';
  l.table.follower.phase.value = 'failed';
  await settle();
  assert.match(overlay.textContent, /Cannot be listed.*forbidden/);
  l.table.follower.phase.value = 'loading';
  await settle();
  assert.ok(overlay.hidden);
});

test('titles sort', async () => {
  const l = await list(3);
  l.put(0, 'Zombie');
  await l.tick();
  const status = () => l.element.all('sort').find((b) => b.textContent.startsWith('Status'));
  const state = () => status().parentNode.getAttribute('aria-sort');
  assert.equal(state(), 'none');
  status().fire('click');
  assert.deepEqual([state(), status().textContent], ['ascending', 'Status ↑']);
  assert.deepEqual(l.drawn(), ['pod-1', 'pod-2', 'pod-0']);
  status().fire('click');
  assert.equal(state(), 'descending');
  assert.deepEqual(l.drawn(), ['pod-0', 'pod-2', 'pod-1']);
  l.put(1, 'Zzz');
  await l.tick();
  assert.deepEqual(l.drawn(), ['pod-1', 'pod-0', 'pod-2']);
});

test('keys move, scroll and open', async () => {
  const l = await list(100);
  const press = (key, more = {}) => l.scroller.fire('keydown', { key, ...more });
  assert.ok(press('ArrowDown').prevented);
  assert.ok(l.row(0).classList.contains('active'));
  assert.equal(l.scroller.getAttribute('aria-activedescendant'), l.row(0).getAttribute('id'));
  press('j');
  assert.ok(l.row(1).classList.contains('active') && !l.row(0).classList.contains('active'));
  press('End');
  assert.ok(l.row(99).classList.contains('active'));
  assert.equal(l.scroller.scrollTop, 99 * ROW + 2 * ROW - 10 * ROW);
  press('Home');
  assert.equal(l.scroller.scrollTop, 0);
  press('PageDown');
  assert.ok(l.row(8).classList.contains('active'));
  assert.ok(!press('j', { ctrlKey: true }).prevented);
  assert.ok(!press('x').prevented);
  press('Enter');
  assert.equal(location.hash, '#/test/object/core/pods/default/pod-8');
});

test('rows are selected', async () => {
  const l = await list(3, { select: true });
  const press = (key) => l.scroller.fire('keydown', { key });
  press('ArrowDown');
  assert.ok(press(' ').prevented);
  assert.deepEqual([...l.selected.peek()], ['default/pod-0']);
  assert.equal(l.row(0).getAttribute('aria-selected'), 'true');
  press(' ');
  assert.deepEqual([...l.selected.peek()], []);
  const box = (row) => row.children[0].children[0];
  box(l.row(1)).fire('change', { target: { checked: true } });
  assert.deepEqual([...l.selected.peek()], ['default/pod-1']);
  const [all] = l.element.all('head')[0].children[0].children;
  all.fire('change', { target: { checked: true } });
  assert.equal(l.selected.peek().size, 3);
  all.fire('change', { target: { checked: false } });
  assert.equal(l.selected.peek().size, 0);
});

test('a list that is taken away follows nothing', async () => {
  const l = await list(3);
  l.dispose();
  l.put(7);
  await l.tick();
  assert.equal(l.drawn().length, 3);
});
