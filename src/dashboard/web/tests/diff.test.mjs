import assert from 'node:assert/strict';
import { test } from 'node:test';
import { diff } from '../diff.js';
import { randomNumbers } from './support.mjs';

const lines = (text) => (text === '' ? [] : text.split(' '));
const show = (all) => all.map((l) => `${l.sign === ' ' ? '' : l.sign}${l.text}`).join(' ');
const edits = (all) => all.filter((l) => l.sign !== ' ').length;

/** The length of the longest common subsequence, by the textbook's table. */
function common(a, b) {
  const table = Array.from({ length: a.length + 1 }, () => new Array(b.length + 1).fill(0));
  for (let i = 1; i <= a.length; i++) {
    for (let j = 1; j <= b.length; j++) {
      table[i][j] = a[i - 1] === b[j - 1] ? table[i - 1][j - 1] + 1 : Math.max(table[i - 1][j], table[i][j - 1]);
    }
  }
  return table[a.length][b.length];
}

function check(a, b) {
  const all = diff(a, b);
  assert.deepEqual(all.filter((l) => l.sign !== '+').map((l) => l.text), a, 'the old text');
  assert.deepEqual(all.filter((l) => l.sign !== '-').map((l) => l.text), b, 'the new text');
  return all;
}

test('small texts', () => {
  for (const [before, after, wanted] of [
    ['', '', ''],
    ['a', 'a', 'a'],
    ['', 'a b', '+a +b'],
    ['a b', '', '-a -b'],
    ['a', 'b', '-a +b'],
    ['a b c', 'a x c', 'a -b +x c'],
    ['a b', 'a b c', 'a b +c'],
    ['b c', 'a b c', '+a b c'],
    ['a b c', 'b c', '-a b c'],
    ['a b c', 'a b', 'a b -c'],
    ['a a a', 'a a', 'a a -a'],
    ['a a', 'a a a', 'a a +a'],
    ['a b a', 'b', '-a b -a'],
    ['x a b y', 'x b a y', 'x -a b +a y'],
  ]) {
    assert.equal(show(check(lines(before), lines(after))), wanted, `${before} → ${after}`);
  }
});

test('empty lines are lines', () => {
  assert.equal(edits(check([''], ['', ''])), 1);
  assert.equal(edits(check(['a', '', 'b'], ['a', 'b'])), 1);
});

test('the edit script is a shortest one', () => {
  const random = randomNumbers();
  for (let i = 0; i < 500; i++) {
    const text = () => Array.from({ length: random(12) }, () => 'abc'[random(3)]);
    const [a, b] = [text(), text()];
    assert.equal(edits(check(a, b)), a.length + b.length - 2 * common(a, b), `${a} → ${b}`);
  }
});

test('texts without a common line', () => {
  const a = Array.from({ length: 100 }, (_, i) => `a${i}`);
  const b = Array.from({ length: 80 }, (_, i) => `b${i}`);
  assert.equal(edits(check(a, b)), 180);
});

test('large texts', () => {
  const a = Array.from({ length: 20_000 }, (_, i) => `line ${i}`);
  const few = a.map((l, i) => (i % 2000 === 7 ? `${l}!` : l));
  assert.equal(edits(check(a, few)), 20);
  const other = a.map((l) => `${l}!`);
  assert.equal(edits(check(a, other)), 40_000);
});
