/** The overview of the cluster. */
import { core, findKind, kindOf } from './api.js';
import { effect, h, onDispose, root, signal } from './dom.js';
import { plural, quantity } from './format.js';
import { graph, useMetrics } from './metrics.js';
import { link, listLink, namespace, objectLink } from './route.js';
import { ageOf, badge, live } from './ui.js';
import { Objects } from './watch.js';
/** @import { Any, Child, Kind, Obj, SlimPod } from './types.d.ts' */

/**
 * @param {Obj} o
 * @returns {string}
 */
const problemOf = (o) => {
  for (const c of [...(o.status?.initContainerStatuses ?? []), ...(o.status?.containerStatuses ?? [])]) {
    /** @type {string | undefined} */
    const reason = c.state?.waiting?.reason;
    if (reason && !/^(ContainerCreating|PodInitializing)$/.test(reason)) return reason;
    if (c.state?.terminated && c.state.terminated.exitCode !== 0 && o.spec?.restartPolicy !== 'Never') return c.state.terminated.reason ?? 'Error';
  }
  return o.status?.phase === 'Failed' ? (o.status.reason ?? 'Failed') : '';
};

/**
 * @param {Obj} o
 * @returns {SlimPod}
 */
export function slimPod(o) {
  /** @param {string} name */
  const sum = (name) =>
    (o.spec?.containers ?? []).reduce((/** @type {number} */ total, /** @type {Any} */ c) => total + (quantity(c.resources?.requests?.[name]) || 0), 0);
  const { name, namespace: ns, uid, labels, creationTimestamp, deletionTimestamp } = o.metadata;
  return {
    metadata: /** @type {Obj['metadata']} */ ({ name, namespace: ns, uid, labels, creationTimestamp, deletionTimestamp }),
    node: o.spec?.nodeName ?? '',
    phase: deletionTimestamp ? 'Terminating' : (o.status?.phase ?? 'Unknown'),
    problem: problemOf(o),
    cpu: sum('cpu'),
    memory: sum('memory'),
    ready: (o.status?.conditions ?? []).some((/** @type {Any} */ c) => c.type === 'Ready' && c.status === 'True'),
  };
}

/**
 * @param {Obj} o
 * @returns {Obj}
 */
export const slimEvent = (o) => ({
  metadata: o.metadata,
  type: o['type'],
  reason: o['reason'],
  message: o['message'] ?? o['note'],
  count: o['count'] ?? o['series']?.count ?? 1,
  last: o['lastTimestamp'] ?? o['series']?.lastObservedTime ?? o['eventTime'] ?? o['firstTimestamp'] ?? o.metadata.creationTimestamp,
  about: o['involvedObject'] ?? o['regarding'] ?? {},
});

/**
 * @param {Obj} a
 * @param {Obj} b
 * @returns {number}
 */
export const byTime = (a, b) => String(b['last']).localeCompare(String(a['last']));

/**
 * Returns events as rows.
 *
 * @param {Obj[]} events
 * @param {boolean} named
 * @returns {HTMLElement}
 */
export function eventRows(events, named) {
  return h(
    'ul.events',
    null,
    events.map((e) => {
      const about = e['about'];
      const kind = kindOf(about.apiVersion ?? 'v1', about.kind ?? '');
      return h(
        'li',
        null,
        h('span', { class: `dot ${e['type'] === 'Warning' ? 'bad' : 'good'}`, title: e['type'], role: 'img', 'aria-label': e['type'] }),
        h('b', null, e['reason']),
        named && about.name
          ? kind
            ? h('a', { href: objectLink(kind, { name: about.name, namespace: about.namespace }) }, `${about.kind} ${about.name}`)
            : h('span', null, `${about.kind} ${about.name}`)
          : null,
        h('span.message', null, e['message']),
        e['count'] > 1 ? h('span.dim', null, `×${e['count']}`) : null,
        ageOf(e['last']),
      );
    }),
  );
}

/** @type {[string, string][]} */
const WORKLOADS = [
  ['apps', 'deployments'],
  ['apps', 'statefulsets'],
  ['apps', 'daemonsets'],
  ['batch', 'jobs'],
  ['batch', 'cronjobs'],
];

/**
 * Returns whether a workload is healthy, and a short description.
 *
 * @param {Kind} kind
 * @param {Obj} o
 * @returns {{ good: boolean; text: string }}
 */
function health(kind, o) {
  const s = o.status ?? {};
  if (kind.name === 'jobs') {
    const failed = (s.conditions ?? []).some((/** @type {Any} */ c) => c.type === 'Failed' && c.status === 'True');
    return { good: !failed, text: failed ? 'Failed' : s.completionTime ? 'Complete' : o.spec?.suspend ? 'Suspended' : 'Running' };
  }
  if (kind.name === 'cronjobs') return { good: true, text: o.spec?.suspend ? 'Suspended' : String(o.spec?.schedule ?? '') };
  const want = kind.name === 'daemonsets' ? (s.desiredNumberScheduled ?? 0) : (o.spec?.replicas ?? 1);
  const have = kind.name === 'daemonsets' ? (s.numberReady ?? 0) : (s.readyReplicas ?? 0);
  return { good: have >= want, text: `${have}/${want} ready` };
}

/** @returns {HTMLElement} */
export function overviewView() {
  const nodes = new Objects(core('nodes'), {});
  const scope = { namespace: namespace.peek() };
  /** @type {Objects<SlimPod>} */
  const pods = new Objects(core('pods'), {}, slimPod);
  const events = new Objects(core('events'), scope, slimEvent);
  const workloads = WORKLOADS.flatMap(([group, name]) => {
    const kind = findKind(group, name);
    return kind ? [{ kind, list: new Objects(kind, scope) }] : [];
  });
  const names = signal('');
  effect(() => {
    names.value = nodes.list.map((n) => n.metadata.name).join(' ');
  });
  effect(() => {
    const all = names.value.split(' ').filter(Boolean);
    const [, dispose] = root(() => useMetrics(all));
    onDispose(dispose);
  });
  const inScope = () => pods.list.filter((p) => !namespace.peek() || p.metadata.namespace === namespace.peek());

  return h(
    'section.view',
    { 'aria-label': 'Overview' },
    h('header.bar', null, h('h1', null, 'Overview'), h('div.spring'), live(() => nodes.follower.phase.value, () => nodes.follower.error.value)),
    h(
      'div.scroll',
      null,
      h('section.tiles', null, () => {
        const all = inScope();
        /** @param {(p: SlimPod) => boolean} test */
        const count = (test) => all.filter(test).length;
        const bad = count((p) => Boolean(p.problem));
        const ready = nodes.list.filter(nodeReady).length;
        const sick = workloads.reduce((n, w) => n + w.list.list.filter((o) => !health(w.kind, o).good).length, 0);
        const warnings = events.list.filter((e) => e['type'] === 'Warning').length;
        return [
          tile('Nodes', `${ready}/${nodes.list.length}`, ready === nodes.list.length ? 'ready' : 'not all ready', ready === nodes.list.length, listLink(core('nodes'))),
          tile('Pods', String(count((p) => p.phase === 'Running')), `running of ${all.length}${bad ? `, ${bad} with problems` : ''}`, !bad, listLink(core('pods'))),
          tile('Workloads', sick ? String(sick) : 'Healthy', sick ? 'not as they should be' : 'all as they should be', !sick, link('topology')),
          tile('Warnings', String(warnings), 'in the events kept', warnings === 0, listLink(core('events'))),
        ];
      }),
      h('h2', null, 'Nodes'),
      h('section.cards', null, () => {
        void names.value;
        return names.value.split(' ').filter(Boolean).map((name) => nodeCard(name, nodes, pods));
      }),
      h(
        'div.two',
        null,
        h('section', null, h('h2', null, 'Workloads'), () => {
          const rows = workloads
            .flatMap((w) => w.list.list.map((o) => ({ kind: w.kind, o, ...health(w.kind, o) })))
            .sort((a, b) => Number(a.good) - Number(b.good));
          if (!rows.length) return quiet('No workloads yet', h('a', { href: link('create') }, 'Create one from YAML'));
          return [
            h(
              'ul.rowsimple',
              null,
              rows.slice(0, 12).map((r) =>
                h(
                  'li',
                  null,
                  h('span', { class: `dot ${r.good ? 'good' : 'warn'}`, role: 'img', 'aria-label': r.good ? 'healthy' : 'not as it should be' }),
                  h('a', { href: objectLink(r.kind, r.o.metadata) }, r.o.metadata.name),
                  h('span.dim', null, `${r.kind.kind} · ${r.o.metadata.namespace}`),
                  h('span.end', null, r.text),
                ),
              ),
            ),
            rows.length > 12 ? h('p.dim', null, `and ${plural(rows.length - 12, 'more', 'more')}`) : null,
          ];
        }),
        h('section', null, h('h2', null, 'Pods with problems'), () => {
          const bad = inScope().filter((p) => p.problem);
          if (!bad.length) return quiet('All pods are well');
          return h(
            'ul.rowsimple',
            null,
            bad.slice(0, 12).map((p) => h('li', null, h('span.dot.bad', { 'aria-hidden': 'true' }), h('a', { href: objectLink(core('pods'), p.metadata) }, p.metadata.name), h('span.dim', null, p.metadata.namespace ?? ''), h('span.end', null, badge(p.problem)))),
          );
        }),
      ),
      h('h2', null, 'What changed last'),
      () => {
        const all = [...events.list].sort(byTime).slice(0, 30);
        return all.length ? eventRows(all, true) : quiet('Nothing has happened lately');
      },
    ),
  );
}

/**
 * @param {string} text
 * @param {...Child} more
 * @returns {HTMLElement}
 */
const quiet = (text, ...more) => h('p.quiet', null, text, more.length ? ' · ' : '', more);

/**
 * @param {string} title
 * @param {string} value
 * @param {string} text
 * @param {boolean} good
 * @param {string} href
 * @returns {HTMLElement}
 */
const tile = (title, value, text, good, href) =>
  h(`a.tile.${good ? 'good' : 'warn'}`, { href }, h('span', null, title), h('b', null, value), h('small', null, text));

/**
 * @param {Obj} n
 * @returns {boolean}
 */
export const nodeReady = (n) => (n.status?.conditions ?? []).some((/** @type {Any} */ c) => c.type === 'Ready' && c.status === 'True');

/**
 * @param {string} name
 * @param {Objects} nodes
 * @param {Objects<SlimPod>} pods
 * @returns {HTMLElement}
 */
function nodeCard(name, nodes, pods) {
  const node = () => nodes.list.find((n) => n.metadata.name === name);
  const first = node();
  const allocatable = first?.status?.allocatable ?? {};
  const [cores, memory, slots] = [quantity(allocatable.cpu), quantity(allocatable.memory), quantity(allocatable.pods)];
  const mine = () => pods.list.filter((p) => p.node === name && p.phase !== 'Succeeded' && p.phase !== 'Failed');
  return h(
    'article.card',
    null,
    h('header', null, h('h3', null, h('a', { href: objectLink(core('nodes'), { name }) }, name)), () => {
      const n = node();
      return [badge(n && nodeReady(n) ? 'Ready' : 'NotReady'), n?.spec?.unschedulable ? badge('SchedulingDisabled') : null];
    }),
    graph({ label: 'CPU', key: `node/${name}`, of: 'cpu', limit: cores }),
    graph({ label: 'Memory', key: `node/${name}`, of: 'memory', limit: memory }),
    () => {
      const all = mine();
      return [
        meter('Pods', all.length, slots, `${all.length} of ${slots}`),
        meter('CPU requested', all.reduce((s, p) => s + p.cpu, 0), cores),
        meter('Memory requested', all.reduce((s, p) => s + p.memory, 0), memory),
      ];
    },
  );
}

/**
 * @param {string} label
 * @param {number} value
 * @param {number} max
 * @param {string} [text]
 * @returns {HTMLElement}
 */
function meter(label, value, max, text) {
  const share = max > 0 ? value / max : 0;
  const bar = h('i');
  bar.style.width = `${Math.min(100, share * 100)}%`;
  return h('div.meter', { role: 'meter', 'aria-label': label, 'aria-valuenow': Math.round(share * 100), 'aria-valuemin': 0, 'aria-valuemax': 100 }, h('span', null, label), h('span.track', null, bar), h('small', null, text ?? `${Math.round(share * 100)} %`));
}
