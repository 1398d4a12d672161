import assert from 'node:assert/strict';
import { test } from 'node:test';
import { frame, settle } from './support.mjs';
import { append, computed, effect, fill, h, onDispose, perFrame, reconcile, root, set, signal, untracked } from '../dom.js';

test('effects run again when what they read changes', async () => {
  const a = signal(1);
  const b = signal(10);
  const seen = [];
  effect(() => {
    seen.push(a.value + b.peek());
  });
  a.value = 2;
  a.value = 3;
  b.value = 20;
  assert.deepEqual(seen, [11], 'not at once');
  await settle();
  assert.deepEqual(seen, [11, 23], 'once for all changes');
  a.value = 3;
  await settle();
  assert.equal(seen.length, 2, 'an equal value is no change');
});

test('effects depend on what they read last', async () => {
  const which = signal(true);
  const [a, b] = [signal('a'), signal('b')];
  let runs = 0;
  effect(() => {
    runs++;
    void (which.value ? a.value : b.value);
  });
  which.value = false;
  await settle();
  a.value = 'A';
  await settle();
  assert.equal(runs, 2);
  b.value = 'B';
  await settle();
  assert.equal(runs, 3);
});

test('inner effects end with the outer run', async () => {
  const outer = signal(0);
  const inner = signal(0);
  let runs = 0;
  let ended = 0;
  effect(() => {
    void outer.value;
    onDispose(() => ended++);
    effect(() => {
      void inner.value;
      runs++;
    });
  });
  outer.value++;
  await settle();
  assert.deepEqual([runs, ended], [2, 1]);
  inner.value++;
  await settle();
  assert.equal(runs, 3);
});

test('a disposed effect does not run', async () => {
  const a = signal(0);
  let runs = 0;
  const [, dispose] = root(() => effect(() => {
    void a.value;
    runs++;
  }));
  a.value++;
  dispose();
  await settle();
  assert.equal(runs, 1);
});

test('an effect that changes what it reads does not hang', async () => {
  const a = signal(0);
  effect(() => {
    a.value = a.value + 1;
  });
  await settle();
  assert.ok(a.peek() >= 50);
});

test('computed and untracked', async () => {
  const a = signal(2);
  const double = computed(() => a.value * 2);
  let runs = 0;
  effect(() => {
    untracked(() => a.value);
    runs++;
  });
  a.value = 5;
  await settle();
  assert.deepEqual([double.value, runs], [10, 1]);
});

test('elements', () => {
  let clicks = 0;
  const element = h('button.primary.big', { title: 'T', disabled: true, hidden: false, 'aria-label': null, open: true, onclick: () => clicks++ }, 'a', 1, null, false, undefined, ['b', ['c']]);
  assert.deepEqual([element.localName, element.className, element.textContent], ['button', 'primary big', 'a1bc']);
  assert.deepEqual([element.getAttribute('title'), element.disabled, element.getAttribute('hidden'), element.getAttribute('aria-label'), element.getAttribute('open')], ['T', true, null, null, '']);
  element.fire('click');
  assert.equal(clicks, 1);
  assert.equal(h('.only').localName, 'div');
});

test('attributes and children follow signals', async () => {
  const name = signal('a');
  const item = h('i');
  const [element] = root(() => h('p', { title: () => name.value }, 'x', () => [name.value, item], 'y'));
  assert.deepEqual([element.getAttribute('title'), element.textContent], ['a', 'xay']);
  name.value = 'b';
  await settle();
  assert.deepEqual([element.getAttribute('title'), element.textContent], ['b', 'xby']);
  assert.equal(item.parentNode, element);
});

test('setting and filling', () => {
  const element = h('input');
  set(element, 'value', null);
  assert.equal(element.value, '');
  set(element, 'class', 'a b');
  assert.equal(element.className, 'a b');
  set(element, 'title', 5);
  set(element, 'title', undefined);
  assert.equal(element.getAttribute('title'), null);
  append(element, ['a', h('b')]);
  fill(element, 'c');
  assert.equal(element.textContent, 'c');
});

test('reconciling keeps elements', () => {
  const parent = h('ul');
  const [a, b, c, d] = ['a', 'b', 'c', 'd'].map((name) => h('li', null, name));
  for (const wanted of [[a, b, c], [c, a, b], [b], [], [d, c, b, a], [a, b, c, d]]) {
    reconcile(parent, wanted);
    assert.deepEqual(parent.children, wanted);
  }
});

test('once a frame', async () => {
  let runs = 0;
  const ask = perFrame(() => runs++);
  ask();
  ask();
  assert.equal(runs, 0);
  await frame();
  assert.equal(runs, 1);
  ask();
  await frame();
  assert.equal(runs, 2);
});
