import assert from 'node:assert/strict';
import { test } from 'node:test';
import { age, bytes, cpu, natural, plural, quantity, since, tone } from '../format.js';

const MINUTE = 60;
const HOUR = 60 * MINUTE;
const DAY = 24 * HOUR;
const YEAR = 365 * DAY;

test('ages are as those of kubectl', () => {
  for (const [seconds, wanted] of [
    [-5, '0s'], [0, '0s'], [1.9, '1s'], [119, '119s'], [120, '2m'], [121, '2m1s'], [599, '9m59s'], [600, '10m'], [659, '10m'], [179 * MINUTE, '179m'],
    [3 * HOUR, '3h'], [3 * HOUR + MINUTE, '3h1m'], [8 * HOUR - 1, '7h59m'], [8 * HOUR + MINUTE, '8h'], [48 * HOUR - 1, '47h'], [2 * DAY, '2d'],
    [2 * DAY + HOUR, '2d1h'], [8 * DAY - 1, '7d23h'], [8 * DAY + HOUR, '8d'], [2 * YEAR - 1, '729d'], [2 * YEAR, '2y'], [2 * YEAR + DAY, '2y1d'],
    [8 * YEAR - 1, '7y364d'], [8 * YEAR, '8y'], [8 * YEAR + 5 * DAY, '8y'],
  ]) {
    assert.equal(age(seconds), wanted, String(seconds));
  }
  assert.equal(since(undefined), '');
  assert.equal(since(new Date(Date.now() - 5500).toISOString()), '5s');
});

test('quantities', () => {
  for (const [text, wanted] of [
    ['0', 0], ['1', 1], ['-1', -1], ['+1.5', 1.5], ['100m', 0.1], ['250u', 250e-6], ['5n', 5e-9], ['1k', 1000], ['2M', 2e6], ['1G', 1e9], ['1E', 1e18],
    ['1Ki', 1024], ['1.5Gi', 1.5 * 2 ** 30], ['1e3', 1000], ['1E3', 1000], ['1e-3', 0.001], [7, 7], ['.5', 0.5], ['5.', 5],
  ]) {
    assert.ok(Math.abs(quantity(text) - wanted) <= Math.abs(wanted) * 1e-12, String(text));
  }
  for (const text of ['', undefined, 'a', '1x', '1e', '1 Gi', '1..2', '1Gib', '<none>', '3 (5m ago)', '1/1', '10.0.0.1', '.']) {
    assert.ok(Number.isNaN(quantity(text)), String(text));
  }
});

test('sizes', () => {
  for (const [n, wanted] of [[0, '0 B'], [1023, '1023 B'], [1024, '1.0 KiB'], [1536, '1.5 KiB'], [100 * 1024, '100 KiB'], [2 ** 30, '1.0 GiB'], [2 ** 60, '1024 PiB'], [NaN, '–']]) {
    assert.equal(bytes(n), wanted);
  }
  for (const [n, wanted] of [[0, '0 m'], [0.25, '250 m'], [1, '1.00'], [2.345, '2.35'], [Infinity, '–']]) assert.equal(cpu(n), wanted);
});

test('plurals', () => {
  assert.equal(plural(1, 'pod'), '1 pod');
  assert.equal(plural(0, 'pod'), '0 pods');
  assert.equal(plural(1234, 'entry', 'entries'), '1,234 entries');
});

test('tones', () => {
  for (const [status, wanted] of [
    ['Running', 'good'], ['Ready', 'good'], ['Completed', 'idle'], ['Succeeded', 'idle'], ['CrashLoopBackOff', 'bad'], ['ImagePullBackOff', 'bad'], ['OOMKilled', 'bad'],
    ['NotReady', 'bad'], ['Pending', 'busy'], ['ContainerCreating', 'busy'], ['Init:0/1', 'busy'], ['Terminating', 'busy'], ['Unknown', 'warn'], ['Warning', 'warn'], ['', 'idle'], ['Other', 'idle'],
  ]) {
    assert.equal(tone(status), wanted, status);
  }
});

test('natural order', () => {
  assert.deepEqual(['a10', 'b', 'a9', 'a'].sort(natural), ['a', 'a9', 'a10', 'b']);
});
