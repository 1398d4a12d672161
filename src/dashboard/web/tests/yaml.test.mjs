import assert from 'node:assert/strict';
import { test } from 'node:test';
import { tokens, write } from '../yaml.js';

const is = (value, wanted) => assert.equal(write(value), wanted);

test('documents that are one scalar', () => {
  is(null, 'null\n');
  is(undefined, 'null\n');
  is(true, 'true\n');
  is(0, '0\n');
  is(-1.5, '-1.5\n');
  is('a', 'a\n');
  is('...', '"..."\n');
  is({}, '{}\n');
  is([], '[]\n');
  is('a\nb', '|-\n  a\n  b\n');
});

test('lists and mappings', () => {
  is({ a: 1, b: { c: 'd' } }, 'a: 1\nb:\n  c: d\n');
  is({ a: [1, 2] }, 'a:\n- 1\n- 2\n');
  is({ a: [{ b: 1, c: 2 }, { d: [3] }] }, 'a:\n- b: 1\n  c: 2\n- d:\n  - 3\n');
  is([[1, 2], [], [[3]]], '- - 1\n  - 2\n- []\n- - - 3\n');
  is({ a: {}, b: [], c: null }, 'a: {}\nb: []\nc: null\n');
  is([{}, [], null], '- {}\n- []\n- null\n');
  is({ a: { b: {} } }, 'a:\n  b: {}\n');
});

test('members without a value are left out', () => {
  is({ a: undefined, b: 1 }, 'b: 1\n');
  is({ a: { b: undefined } }, 'a: {}\n');
  is([undefined], '- null\n');
});

test('strings that need no quotes', () => {
  for (const plain of ['a', 'A-b_c.d/e', 'nginx', 'two words', 'v1', 'apps/v1', '_', '/', './x', 'f(x)', 'me@x', 'yesterday', 'nullable', 'a+b']) {
    is({ k: plain }, `k: ${plain}\n`);
  }
});

test('strings that would be read as something else are quoted', () => {
  for (const quoted of [
    '', ' ', 'a ', ' a', '1', '1.5', '0x1f', '0o17', '017', '1e3', '1_000', '.5', '-1', '+1', '1:30', '190:20:30',
    '2001-01-01', '2001-12-14t21:59:43.10-05:00', 'y', 'Y', 'n', 'yes', 'No', 'ON', 'off', 'true', 'False', 'TRUE',
    'null', 'Null', '~', '.inf', '.Inf', '.NaN', '-', '- a', '?', ': a', 'a: b', 'a:', 'a #b', '#a', '&a', '*a', '!a', '|', '>',
    "'a'", '"a"', '%a', '@a', '`a', '{a}', '[a]', 'a, b', '<<', '=', '---', '...', '\t', '1Gi', '100m',
  ]) {
    is({ k: quoted }, `k: ${JSON.stringify(quoted)}\n`);
    is({ [quoted]: 1 }, `${JSON.stringify(quoted)}: 1\n`);
  }
});

test('characters that cannot be printed are escaped', () => {
  is({ k: '\u0000\u0007\u001b' }, 'k: "\\u0000\\u0007\\u001b"\n');
  is({ k: '\u007f\u0085\u009f' }, 'k: "\\u007f\\u0085\\u009f"\n');
  is({ k: '\u2028\u2029\ufeff\ufffe\uffff' }, 'k: "\\u2028\\u2029\\ufeff\\ufffe\\uffff"\n');
  is({ k: 'a\n\u0080' }, 'k: "a\\n\\u0080"\n');
  is({ k: 'a\r\nb' }, 'k: "a\\r\\nb"\n');
  is({ k: 'grüße 😀' }, 'k: "grüße 😀"\n');
});

test('several lines are a block', () => {
  is({ k: 'a\nb' }, 'k: |-\n  a\n  b\n');
  is({ k: 'a\nb\n' }, 'k: |\n  a\n  b\n');
  is({ k: 'a\n' }, 'k: |\n  a\n');
  is({ k: 'a\n\n' }, 'k: |+\n  a\n\n');
  is({ k: 'a\n\n\n' }, 'k: |+\n  a\n\n\n');
  is({ k: 'a\n\nb' }, 'k: |-\n  a\n\n  b\n');
  is({ k: 'a\n  b\n\tc\n' }, 'k: |\n  a\n    b\n  \tc\n');
  is({ k: '# a\nb: "c"\n' }, 'k: |\n  # a\n  b: "c"\n');
  is({ k: { l: ['a\nb', { m: 'c\nd\n' }] } }, 'k:\n  l:\n  - |-\n    a\n    b\n  - m: |\n      c\n      d\n');
  is(['a\nb'], '- |-\n  a\n  b\n');
});

test('lines that a block would not show are quoted', () => {
  for (const quoted of ['\n', '\na', ' a\nb', '\ta\nb', 'a \nb', 'a\t\nb', 'a\nb ', 'a\n \nb', 'a\n  ', '\n\n']) {
    is({ k: quoted }, `k: ${JSON.stringify(quoted)}\n`);
  }
});

test('keys are never blocks', () => {
  is({ 'a\nb': 1 }, '"a\\nb": 1\n');
  is({ 'a\nb': { c: 1 } }, '"a\\nb":\n  c: 1\n');
});

const kinds = (line) => tokens(line).map((t) => [t.kind, t.text]);

test('tokens', () => {
  assert.deepEqual(kinds(''), []);
  assert.deepEqual(kinds('a: b'), [['key', 'a'], ['mark', ':'], ['string', ' b']]);
  assert.deepEqual(kinds('  - a: 1'), [['mark', '  - '], ['key', 'a'], ['mark', ':'], ['number', ' 1']]);
  assert.deepEqual(kinds('"a:b": true'), [['key', '"a:b"'], ['mark', ':'], ['word', ' true']]);
  assert.deepEqual(kinds('x/y.z: ~'), [['key', 'x/y.z'], ['mark', ':'], ['word', ' ~']]);
  assert.deepEqual(kinds('a: |-'), [['key', 'a'], ['mark', ':'], ['mark', ' |-']]);
  assert.deepEqual(kinds('a: |2+'), [['key', 'a'], ['mark', ':'], ['mark', ' |2+']]);
  assert.deepEqual(kinds('a:'), [['key', 'a'], ['mark', ':']]);
  assert.deepEqual(kinds('- b'), [['mark', '- '], ['string', 'b']]);
  assert.deepEqual(kinds('# c'), [['comment', '# c']]);
  assert.deepEqual(kinds('  # c'), [['mark', '  '], ['comment', '# c']]);
  assert.deepEqual(kinds('a: b # c'), [['key', 'a'], ['mark', ':'], ['string', ' b'], ['comment', ' # c']]);
  assert.deepEqual(kinds('a: "b # c"'), [['key', 'a'], ['mark', ':'], ['string', ' "b # c"']]);
  assert.deepEqual(kinds('a: b#c'), [['key', 'a'], ['mark', ':'], ['string', ' b#c']]);
  for (const [text, kind] of [['1', 'number'], ['-1.5', 'number'], ['1e3', 'number'], ['.5', 'number'], ['1.2.3', 'string'], ['.', 'string'], ['1Gi', 'string'], ['{}', 'word'], ['[]', 'word'], ['null', 'word']]) {
    assert.equal(tokens(`a: ${text}`)[2].kind, kind, text);
  }
});

test('tokens make up their line', () => {
  for (const line of [
    'a', 'a: b: c', '- - - a: b', '---', '--- # x', '- --- ', "'a': 'b' # c", '"unfinished', '"\\"": x', ': x', '? a', '&a b: *c', '!!str a: 1',
    'http://x:80/#y', '\t- a', ' - ', '-', '-a', '{a: b}', '[a, b] # c', 'a:  "b"   ', 'ü: ö', '#', ' #', 'a:b', 'a :b', 'a : b',
  ]) {
    assert.equal(tokens(line).map((t) => t.text).join(''), line);
  }
});
