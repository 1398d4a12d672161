import assert from 'node:assert/strict';
import { test } from 'node:test';
import { location } from './support.mjs';
import { fieldValue, findKind, gv, kindOf, kinds, path, profile } from '../api.js';
import { score } from '../palette.js';
import { go, link, listLink, objectLink, read, route } from '../route.js';
import { place } from '../schema.js';
import { keyBytes } from '../terminal.js';

const kind = (group, version, name, namespaced = true) => ({ group, version, kind: name[0].toUpperCase() + name.slice(1, -1), name, namespaced, verbs: [], short: [], subresources: [] });
const PODS = kind('', 'v1', 'pods');
const NODES = kind('', 'v1', 'nodes', false);
const DEPLOYMENTS = kind('apps', 'v1', 'deployments');

test('paths of the API', () => {
  assert.equal(path(PODS), '/api/v1/pods');
  assert.equal(path(PODS, 'a'), '/api/v1/namespaces/a/pods');
  assert.equal(path(PODS, 'a', 'b', 'log'), '/api/v1/namespaces/a/pods/b/log');
  assert.equal(path(NODES, 'a', 'b'), '/api/v1/nodes/b');
  assert.equal(path(DEPLOYMENTS, 'a/b', 'c:d?'), '/apis/apps/v1/namespaces/a%2Fb/deployments/c%3Ad%3F');
  assert.deepEqual([gv(PODS), gv(DEPLOYMENTS)], ['v1', 'apps/v1']);
  assert.equal(fieldValue('a=b,c\\d'), 'a\\=b\\,c\\\\d');
});

test('kinds', () => {
  kinds.value = [PODS, DEPLOYMENTS];
  assert.equal(findKind('apps', 'deployments'), DEPLOYMENTS);
  assert.equal(findKind('', 'deployments'), undefined);
  assert.equal(kindOf('v1', 'Pod'), PODS);
  assert.equal(kindOf('apps/v1', 'Deployment'), DEPLOYMENTS);
  assert.equal(kindOf('apps/v1', 'Pod'), undefined);
});

test('addresses within the page', () => {
  profile.value = 'my cluster';
  assert.equal(link('overview'), '#/my%20cluster/overview');
  assert.equal(listLink(PODS, { q: 'a b' }), '#/my%20cluster/list/core/pods?q=a+b');
  assert.equal(objectLink(DEPLOYMENTS, { name: 'a/b', namespace: 'n' }, 'yaml'), '#/my%20cluster/object/apps/deployments/n/a%2Fb/yaml');
  assert.equal(objectLink(NODES, { name: 'a' }), '#/my%20cluster/object/core/nodes/-/a');
  go(objectLink(DEPLOYMENTS, { name: 'a/b', namespace: 'n' }));
  read();
  assert.deepEqual([route.peek().view, route.peek().parts], ['object', ['apps', 'deployments', 'n', 'a/b']]);
  location.hash = '#/other/list/core/pods?labels=a%3Db';
  read();
  assert.deepEqual([profile.peek(), route.peek().parts, route.peek().query.get('labels')], ['other', ['core', 'pods'], 'a=b']);
  location.hash = '#/other/%E0%A4%A';
  read();
  assert.equal(route.peek().view, '%E0%A4%A');
  location.hash = '';
  read();
  assert.deepEqual([profile.peek(), route.peek().view], ['other', 'overview']);
});

test('matches of the palette', () => {
  assert.equal(score('xyz', 'pods'), null);
  const order = (query, ...texts) => texts.toSorted((a, b) => score(query, b) - score(query, a));
  assert.deepEqual(order('pod', 'my-pod', 'pods', 'p-o-d'), ['pods', 'my-pod', 'p-o-d']);
  assert.deepEqual(order('pod', 'podmonitors', 'pods'), ['pods', 'podmonitors']);
  assert.ok(score('', 'anything') !== null);
});

/** The place of the `|` in a text. */
function cursor(text) {
  const at = text.indexOf('|');
  return place(text.slice(0, at) + text.slice(at + 1), at);
}

test('where the cursor is', () => {
  for (const [text, path, typed, key] of [
    ['|', [], '', null],
    ['ki|', [], 'ki', null],
    ['kind: Po|', [], 'Po', 'kind'],
    ['spec:\n  re|', ['spec'], 're', null],
    ['spec:\n  replicas: |', ['spec'], '', 'replicas'],
    ['spec:\n  a: 1\n  template:\n    spec:\n      |', ['spec', 'template', 'spec'], '', null],
    ['spec:\n  containers:\n  - na|', ['spec', 'containers', '-'], 'na', null],
    ['spec:\n  containers:\n    - na|', ['spec', 'containers', '-'], 'na', null],
    ['spec:\n  containers:\n  - name: a\n    im|', ['spec', 'containers', '-'], 'im', null],
    ['spec:\n  containers:\n  - name: a\n    ports:\n    - containerPort: 1\n      pro|', ['spec', 'containers', '-', 'ports', '-'], 'pro', null],
    ['spec:\n  containers:\n  - name: a\n  - na|', ['spec', 'containers', '-'], 'na', null],
    ['spec:\n  a:\n    b: 1\nsta|', [], 'sta', null],
    ['spec:\n  # a comment:\n\n  re|', ['spec'], 're', null],
    ['spec:\n  a:\n    b: 1\n  c:\n    |', ['spec', 'c'], '', null],
  ]) {
    const found = cursor(text);
    assert.deepEqual([found.path, found.typed, found.key], [path, typed, key], JSON.stringify(text));
  }
});

test('what is beside the cursor', () => {
  assert.deepEqual(cursor('spec:\n  a: 1\n  b:\n    x: 1\n  |\n  c: 2\nstatus: 1').beside, ['b', 'a', 'c']);
  assert.deepEqual(cursor('l:\n- a: 1\n  b: 1\n- c: 1\n  |\n  d: 1\n- e: 1').beside.includes('a'), false);
});

const event = (key, modifiers = '') => ({ key, shiftKey: modifiers.includes('s'), ctrlKey: modifiers.includes('c'), altKey: modifiers.includes('a'), metaKey: modifiers.includes('m') });

test('bytes of keys', () => {
  for (const [key, modifiers, wanted] of [
    ['Enter', '', '\r'], ['Backspace', '', '\u007f'], ['Tab', '', '\t'], ['Tab', 's', '\u001b[Z'], ['Escape', '', '\u001b'], ['Delete', '', '\u001b[3~'], ['F1', '', '\u001bOP'], ['F5', '', '\u001b[15~'],
    ['ArrowUp', '', '\u001b[A'], ['Home', '', '\u001b[H'], ['ArrowLeft', 'c', '\u001b[1;5D'], ['ArrowRight', 'sa', '\u001b[1;4C'],
    ['c', 'c', '\u0003'], ['C', 'cs', null], ['v', 'cs', null], ['d', 'c', '\u0004'], ['[', 'c', '\u001b'], [' ', 'c', '\u0000'], ['1', 'c', null],
    ['x', 'a', '\u001bx'], ['Enter', 'a', '\u001b\r'], ['x', '', null], ['x', 'm', null], ['@', 'ca', null], ['Shift', 's', null],
  ]) {
    assert.equal(keyBytes(event(key, modifiers), false), wanted, `${modifiers} ${key}`);
  }
  assert.equal(keyBytes(event('ArrowUp'), true), '\u001bOA');
  assert.equal(keyBytes(event('End'), true), '\u001bOF');
  assert.equal(keyBytes(event('ArrowUp', 's'), true), '\u001b[1;2A');
});
