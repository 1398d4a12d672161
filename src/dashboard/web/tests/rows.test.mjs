import assert from 'node:assert/strict';
import { test } from 'node:test';
import { BY_NAMESPACE, cellText, gridTracks, matches, nameOf, rowForKey, RowOrder, searchWords, shownColumns, visibleRange } from '../rows.js';
import { randomNumbers } from './support.mjs';

const column = (name, priority = 0) => ({ name, type: 'string', format: '', priority, description: '' });

function table(...rows) {
  const all = rows.map(([name, namespace, ...cells], i) => ({
    key: `uid-${name}`,
    meta: { name, namespace, creationTimestamp: `2026-01-0${(i % 9) + 1}T00:00:00Z` },
    cells: [name, ...cells],
    version: i,
  }));
  return { columns: [column('Name'), column('Size'), column('Age')], rows: new Map(all.map((r) => [r.key, r])), touched: new Map(), fresh: true };
}

const names = (order) => order.rows.map((r) => r.meta.name).join(' ');

function arranged(of, sort, search = '') {
  const order = new RowOrder(of);
  if (sort) order.sort = sort;
  order.arrange(searchWords(search));
  return names(order);
}

test('the order by name counts numbers as numbers', () => {
  const t = table(['b', 'x'], ['a10', 'x'], ['a9', 'x'], ['c', 'w']);
  assert.equal(arranged(t), 'c a9 a10 b');
  assert.equal(arranged(t, { by: -1, down: true }), 'b a10 a9 c');
});

test('the order by columns', () => {
  const t = table(['a', 'x', '1Gi'], ['b', 'y', '500Mi'], ['c', 'x', '2Ki'], ['d', 'y', null]);
  assert.equal(arranged(t, { by: 1, down: false }), 'd c b a');
  assert.equal(arranged(t, { by: 1, down: true }), 'a b c d');
  assert.equal(arranged(t, { by: 2, down: false }), 'd c b a', 'the youngest first');
  assert.equal(arranged(t, { by: BY_NAMESPACE, down: false }), 'a c b d');
  assert.equal(arranged(t, { by: 9, down: false }), 'a c b d', 'a column that is gone');
  const counts = table(['a', '', 10], ['b', '', 9], ['c', '', 100], ['d', '', '3 (5m ago)']);
  assert.equal(arranged(counts, { by: 1, down: false }), 'd b a c');
});

test('equal cells are in the order of names', () => {
  const t = table(['b', 'x', '1'], ['a', 'x', '1'], ['c', 'w', '1']);
  assert.equal(arranged(t, { by: 1, down: false }), 'c a b');
});

test('searches', () => {
  const t = table(['web-1', 'shop', 'Running'], ['db', 'shop', 'Pending'], ['web-2', 'test', 'Running']);
  assert.equal(arranged(t, null, 'web'), 'web-1 web-2');
  assert.equal(arranged(t, null, ' RUNNING  shop '), 'web-1');
  assert.equal(arranged(t, null, 'web pending'), '');
  assert.equal(arranged(t, null, '   '), 'db web-1 web-2');
});

test('texts', () => {
  const row = { key: 'k', meta: { name: 'n' }, cells: ['a', null, undefined, 0, false], version: 0 };
  assert.deepEqual([0, 1, 2, 3, 4, 5].map((i) => cellText(row, i)), ['a', '', '', '0', 'false', '']);
  assert.equal(nameOf(row), '/n');
  assert.equal(nameOf({ meta: { name: 'n', namespace: 's' } }), 's/n');
  assert.ok(matches(row, []));
  assert.ok(matches(row, ['n', 'false']));
  assert.ok(!matches(row, ['x']));
});

test('a change moves what it has to', () => {
  const t = table(['a', 'x', '1'], ['b', 'x', '2'], ['c', 'x', '3']);
  const order = new RowOrder(t);
  assert.ok(order.update([]));
  assert.equal(names(order), 'a b c');
  assert.ok(!order.update([]), 'nothing changed');

  t.rows.get('uid-a').cells = ['a', '9'];
  t.touched.set('uid-a', 'changed');
  assert.ok(!order.update([]), 'cells do not matter for the order by name');
  assert.equal(t.touched.size, 0);

  order.sort = { by: 1, down: false };
  order.arrange([]);
  assert.equal(names(order), 'b c a');
  t.rows.get('uid-c').cells = ['c', '0'];
  t.touched.set('uid-c', 'changed');
  assert.ok(order.update([]));
  assert.equal(names(order), 'c b a');

  t.rows.delete('uid-b');
  t.touched.set('uid-b', 'gone');
  assert.ok(order.update([]));
  assert.equal(names(order), 'c a');
});

test('a change may match a search or stop to', () => {
  const t = table(['a', 'x', 'on'], ['b', 'x', 'off']);
  const order = new RowOrder(t);
  order.arrange(['on']);
  assert.equal(names(order), 'a');
  t.rows.get('uid-b').cells = ['b', 'on'];
  t.rows.get('uid-a').cells = ['a', 'off'];
  t.touched.set('uid-a', 'changed').set('uid-b', 'changed');
  assert.ok(order.update(['on']));
  assert.equal(names(order), 'b');
});

test('a fresh table is sorted as a whole', () => {
  const t = table(['b', 'x'], ['a', 'x']);
  const order = new RowOrder(t);
  order.update([]);
  t.rows.clear();
  t.touched.clear();
  t.fresh = true;
  assert.ok(order.update([]));
  assert.equal(names(order), '');
  assert.equal(t.fresh, false);
});

test('changes one by one give the same order as sorting all', () => {
  const random = randomNumbers();
  const t = table();
  t.fresh = false;
  const order = new RowOrder(t);
  const sorts = [{ by: -1, down: false }, { by: 1, down: true }, { by: BY_NAMESPACE, down: true }, { by: 2, down: false }];
  for (let round = 0; round < 300; round++) {
    if (round % 75 === 0) {
      order.sort = sorts[round / 75];
      order.arrange([]);
    }
    for (let i = random(6); i > 0; i--) {
      const name = `n${random(40)}`;
      const key = `uid-${name}`;
      const known = t.rows.get(key);
      if (known && random(3) === 0) {
        t.rows.delete(key);
        t.touched.set(key, 'gone');
      } else if (known) {
        known.cells = [name, String(random(9))];
        if (!t.touched.has(key)) t.touched.set(key, 'changed');
      } else {
        t.rows.set(key, { key, meta: { name, namespace: `s${random(3)}`, creationTimestamp: `2026-01-01T00:00:0${random(9)}Z` }, cells: [name, String(random(9))], version: round });
        t.touched.set(key, 'new');
      }
    }
    order.update([]);
    const whole = new RowOrder({ ...t, touched: new Map() });
    whole.sort = order.sort;
    whole.arrange([]);
    assert.equal(names(order), names(whole), `round ${round}`);
  }
});

test('columns', () => {
  const all = [column('Name'), column('Ready'), column('Status'), column('Age'), column('IP', 1), column('Node', 1), column('Nominated Node', 1)];
  assert.deepEqual(shownColumns(all, false).map((s) => s.column.name), ['Name', 'Ready', 'Status', 'Age']);
  assert.deepEqual(shownColumns(all, true).map((s) => [s.column.name, s.index]).slice(3), [['Age', 3], ['IP', 4], ['Node', 5]]);
  const tracks = gridTracks(shownColumns(all, false), { namespaces: true, checkboxes: true });
  assert.equal(tracks, '32px minmax(160px, 2.4fr) minmax(90px, 1fr) minmax(70px, 1fr) minmax(132px, 1.1fr) 72px');
  assert.equal(gridTracks([], { namespaces: false, checkboxes: false }), '');
});

test('which rows are drawn', () => {
  assert.deepEqual(visibleRange(0, 320, 32, 1000), [0, 18]);
  assert.deepEqual(visibleRange(3200, 320, 32, 1000), [92, 118]);
  assert.deepEqual(visibleRange(3210, 320, 32, 1000), [92, 119]);
  assert.deepEqual(visibleRange(31680, 320, 32, 1000), [982, 1000]);
  assert.deepEqual(visibleRange(0, 320, 32, 3), [0, 3]);
  assert.deepEqual(visibleRange(0, 0, 32, 0), [0, 0]);
});

test('keys', () => {
  for (const [key, from, wanted] of [
    ['ArrowDown', -1, 0], ['ArrowDown', 4, 5], ['ArrowDown', 9, 9], ['j', 0, 1], ['ArrowUp', 5, 4], ['ArrowUp', 0, 0], ['ArrowUp', -1, 0], ['k', 1, 0],
    ['PageDown', 1, 5], ['PageDown', 8, 9], ['PageUp', 5, 1], ['PageUp', 2, 0], ['Home', 5, 0], ['End', 5, 9], ['x', 5, null], ['constructor', 5, null],
  ]) {
    assert.equal(rowForKey(key, from, 4, 10), wanted, `${key} from ${from}`);
  }
  assert.equal(rowForKey('End', -1, 4, 0), null);
});
