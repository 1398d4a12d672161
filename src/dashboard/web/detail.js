/** The view of one object: fields, status, related objects, actions. */
import { actions } from './actions.js';
import { core, fieldValue, findKind, gv, kindKey, kindOf } from './api.js';
import { editPane } from './apply.js';
import { effect, h, signal, untracked } from './dom.js';
import { forwardsPane } from './forwards.js';
import { plural } from './format.js';
import { grid } from './list.js';
import { logsPane } from './logs.js';
import { graph, podMetrics, useMetrics } from './metrics.js';
import { byTime, eventRows, slimEvent } from './overview.js';
import { go, link, listLink, objectLink, route } from './route.js';
import { execPane, shellPane } from './terminal.js';
import { ageOf, badge, copy, emptyPage, emptyState, live, tabs } from './ui.js';
import { Objects, Table } from './watch.js';
/** @import { Any, Child, Kind, Obj, Signal, Tab } from './types.d.ts' */

/** @returns {HTMLElement} */
export function detailView() {
  const box = h('div.view');
  const target = signal('');
  effect(() => {
    target.value = route.value.parts.slice(0, 4).map(encodeURIComponent).join('/');
  });
  const known = signal('');
  effect(() => {
    const [group = '', resource = ''] = route.value.parts;
    known.value = kindKey(group === 'core' ? '' : group, resource);
  });
  effect(() => {
    const [group = '', resource = '', ns = '-', name = ''] = target.value.split('/').map(decodeURIComponent);
    void known.value;
    const kind = untracked(() => findKind(group === 'core' ? '' : group, resource));
    box.replaceChildren(
      untracked(() => (kind ? build(kind, ns === '-' ? undefined : ns, name) : emptyPage('No such kind', `The API server does not serve ${resource}.`))),
    );
  });
  return box;
}

/**
 * @param {Kind} kind
 * @param {string | undefined} ns
 * @param {string} name
 * @returns {HTMLElement}
 */
function build(kind, ns, name) {
  const box = h('div.view');
  const list = new Objects(kind, { namespace: ns, fields: `metadata.name=${fieldValue(name)}` });
  /** @type {Signal<Obj | null>} */
  const present = signal(null);
  const gone = signal(false);
  const uid = signal('');
  effect(() => {
    const found = list.list[0];
    if (found) {
      present.value = { apiVersion: gv(kind), kind: kind.kind, ...found };
      // Component statuses are computed on request and have no UID.
      uid.value = found.metadata.uid || found.metadata.name;
      gone.value = false;
    } else if (list.follower.phase.value === 'live' && list.tick.value) {
      gone.value = true;
    }
  });
  effect(() => {
    // A new object of the same name has its own view.
    if (uid.value) {
      // Stays while the connection is lost: the user may be editing.
      box.replaceChildren(untracked(() => page(kind, /** @type {{ value: Obj; peek(): Obj }} */ (present), gone, list)));
      return;
    }
    const phase = list.follower.phase.value;
    box.replaceChildren(
      untracked(() => {
        if (phase === 'failed') return emptyPage('Cannot be shown', list.follower.error.value);
        if (gone.peek() || phase === 'live') return emptyPage(`No ${kind.kind} ${name}`, ns ? `There is none of this name in ${ns}.` : 'There is none of this name.', h('a.button', { href: listLink(kind) }, `All ${kind.name}`));
        return h('p.quiet', null, 'Loading…');
      }),
    );
  });
  return box;
}

const PODS_OF = /^(deployments|statefulsets|daemonsets|replicasets|jobs|replicationcontrollers)$/;

/**
 * @param {Kind} kind
 * @param {{ value: Obj; peek(): Obj }} present
 * @param {{ value: boolean }} gone
 * @param {Objects} list
 * @returns {HTMLElement}
 */
function page(kind, present, gone, list) {
  const o = () => present.value;
  const first = present.peek();
  const isPod = !kind.group && kind.name === 'pods';
  const isNode = !kind.group && kind.name === 'nodes';
  const base = objectLink(kind, first.metadata);
  /** @type {Tab[]} */
  const all = [{ id: 'summary', label: 'Summary', build: () => summary(kind, o, first) }];
  const selector = podSelector(kind, first);
  if (selector) all.push({ id: 'pods', label: 'Pods', build: () => podList({ namespace: first.metadata.namespace, labels: selector }) });
  if (isNode) all.push({ id: 'pods', label: 'Pods', build: () => podList({ fields: `spec.nodeName=${first.metadata.name}` }) });
  if (isPod) {
    all.push({ id: 'logs', label: 'Logs', build: () => untracked(() => logsPane(() => present.peek())) });
    all.push({ id: 'terminal', label: 'Terminal', build: () => untracked(() => execPane(() => present.peek())) });
    all.push({ id: 'metrics', label: 'Metrics', build: () => untracked(() => podMetrics(() => present.peek())) });
  }
  if (isNode) all.push({ id: 'terminal', label: 'Shell', build: () => untracked(() => shellPane(first.metadata.name)) });
  all.push({ id: 'events', label: 'Events', build: () => events(first) });
  all.push({ id: 'yaml', label: 'YAML', build: () => untracked(() => editPane(kind, () => present.peek(), !kind.verbs.includes('update'))) });
  const tab = () => route.value.parts[4] ?? 'summary';
  const chosen = signal(tab());
  effect(() => {
    chosen.value = tab();
  });
  return h(
    'section.view',
    { 'aria-label': `${kind.kind} ${first.metadata.name}` },
    h(
      'header.bar.object',
      null,
      h(
        'div.title',
        null,
        h('nav.crumbs', { 'aria-label': 'Where this is' }, h('a', { href: listLink(kind) }, kind.kind), first.metadata.namespace ? [' / ', h('a', { href: objectLink(core('namespaces'), { name: first.metadata.namespace }) }, first.metadata.namespace)] : null),
        h('h1', null, first.metadata.name),
      ),
      () => (gone.value ? badge('Deleted') : o().metadata.deletionTimestamp ? badge('Terminating') : stateOf(o())),
      h('div.spring'),
      live(() => list.follower.phase.value, () => list.follower.error.value),
      () => (gone.value ? null : h('div.actions', { role: 'toolbar', 'aria-label': 'Actions' }, untracked(() => actions(kind, o)))),
    ),
    tabs(all, () => chosen.value, (id) => go(id === 'summary' ? base : objectLink(kind, first.metadata, id), true), kind.kind),
  );
}

/**
 * @param {Obj} o
 * @returns {Child}
 */
function stateOf(o) {
  const phase = o.status?.phase;
  if (typeof phase === 'string' && phase) return badge(phase);
  /** @type {Any[]} */
  const conditions = o.status?.conditions ?? [];
  for (const type of ['Ready', 'Available', 'Established', 'Complete', 'Failed']) {
    const c = conditions.find((x) => x.type === type);
    if (c?.status === 'True') return badge(type);
    if (c && (type === 'Ready' || type === 'Available')) return badge(`Not${type}`.replace('NotAvailable', 'Unavailable'));
  }
  return null;
}

/**
 * @param {Kind} kind
 * @param {Obj} o
 * @returns {string}
 */
function podSelector(kind, o) {
  if (!PODS_OF.test(kind.name) && !(kind.name === 'services' && !kind.group)) return '';
  const raw = o.spec?.selector ?? {};
  /** @type {Record<string, string>} */
  const labels = raw.matchLabels ?? (raw.matchExpressions ? {} : raw);
  const parts = Object.entries(labels).map(([k, v]) => `${k}=${v}`);
  for (const e of raw.matchExpressions ?? []) {
    if (e.operator === 'In') parts.push(`${e.key} in (${e.values.join(',')})`);
    else if (e.operator === 'NotIn') parts.push(`${e.key} notin (${e.values.join(',')})`);
    else parts.push(e.operator === 'Exists' ? e.key : `!${e.key}`);
  }
  return parts.join(',');
}

/**
 * @param {{ namespace?: string | undefined; labels?: string; fields?: string }} scope
 * @returns {HTMLElement}
 */
function podList(scope) {
  const table = untracked(() => new Table(core('pods'), scope));
  const nothing = signal('');
  return untracked(() => grid(core('pods'), table, nothing, () => {}));
}

/**
 * @param {Obj} o
 * @returns {Child}
 */
function events(o) {
  const found = untracked(
    () =>
      new Objects(core('events'), {
        namespace: o.metadata.namespace,
        fields: `involvedObject.name=${fieldValue(o.metadata.name)},involvedObject.kind=${o.kind}`,
      }, slimEvent),
  );
  return h('div.scroll', null, () => {
    const all = [...found.list].sort(byTime);
    if (all.length) return eventRows(all, false);
    return found.follower.phase.value === 'loading' ? h('p.quiet', null, 'Loading…') : emptyState('No events', 'Events are kept for an hour after they happened.');
  });
}

/**
 * @param {string} label
 * @param {Child} value
 * @returns {HTMLElement}
 */
const field = (label, value) => h('div.field', null, h('dt', null, label), h('dd', null, value));

/**
 * @param {string} title
 * @param {() => Record<string, string> | undefined} values
 * @param {Kind} [kind]
 * @returns {Child}
 */
function labelsOf(title, values, kind) {
  return () => {
    // kubectl's last applied configuration repeats the object.
    const all = Object.entries(values() ?? {}).filter(([k]) => k !== 'kubectl.kubernetes.io/last-applied-configuration');
    if (!all.length) return null;
    return h(
      'section',
      null,
      h('h2', null, title),
      h(
        'ul.chips',
        null,
        all.map(([k, v]) => h('li', { title: `${k}=${v}` }, kind ? h('a', { href: listLink(kind, { labels: `${k}=${v}` }) }, h('span', null, k), h('b', null, v)) : [h('span', null, k), h('b', null, v)])),
      ),
    );
  };
}

/**
 * @param {Kind} kind
 * @param {() => Obj} o
 * @param {Obj} first
 * @returns {HTMLElement}
 */
function summary(kind, o, first) {
  const meta = first.metadata;
  const extra = untracked(() => special(kind, o, first));
  return h(
    'div.scroll.summary',
    null,
    h(
      'dl.fields',
      null,
      meta.namespace ? field('Namespace', h('a', { href: objectLink(core('namespaces'), { name: meta.namespace }) }, meta.namespace)) : null,
      field('Created', [ageOf(meta.creationTimestamp), h('span.dim', null, ` ago, ${meta.creationTimestamp ?? ''}`)]),
      field('UID', h('code', { onclick: () => copy(meta.uid ?? '') }, meta.uid ?? '')),
      () => ((o().metadata.ownerReferences ?? []).length ? field('Owned by', (o().metadata.ownerReferences ?? []).map((r) => ref(r.apiVersion, r.kind, r.name, meta.namespace))) : null),
      () => ((o().metadata.finalizers ?? []).length ? field('Finalizers', (o().metadata.finalizers ?? []).join(', ')) : null),
      extra.fields,
    ),
    extra.sections,
    conditions(o),
    untracked(() => owned(kind, first)),
    labelsOf('Labels', () => o().metadata.labels, kind),
    labelsOf('Annotations', () => o().metadata.annotations),
    untracked(() => h('section', null, h('h2', null, 'Latest events'), latest(first))),
  );
}

/**
 * @param {Obj} o
 * @returns {Child}
 */
function latest(o) {
  const found = new Objects(core('events'), { namespace: o.metadata.namespace, fields: `involvedObject.name=${fieldValue(o.metadata.name)},involvedObject.kind=${o.kind}` }, slimEvent);
  return () => {
    const all = [...found.list].sort(byTime).slice(0, 5);
    return all.length ? eventRows(all, false) : h('p.quiet', null, 'None lately');
  };
}

/**
 * @param {string} apiVersion
 * @param {string} kindName
 * @param {string} name
 * @param {string} [ns]
 * @returns {Child}
 */
function ref(apiVersion, kindName, name, ns) {
  const kind = kindOf(apiVersion, kindName);
  return kind ? h('a', { href: objectLink(kind, kind.namespaced && ns ? { name, namespace: ns } : { name }) }, `${kindName} ${name}`) : `${kindName} ${name}`;
}

/**
 * @param {() => Obj} o
 * @returns {Child}
 */
function conditions(o) {
  return () => {
    /** @type {Any[]} */
    const all = o().status?.conditions ?? [];
    if (!all.length) return null;
    // A true "…Pressure" is bad where a true "Ready" is good.
    /** @param {Any} c */
    const good = (c) => (c.status === 'True') !== /Pressure|Unavailable|Failed|Failure|Disruption/.test(c.type);
    return h(
      'section',
      null,
      h('h2', null, 'Conditions'),
      h(
        'table.plain',
        { 'aria-label': 'Conditions' },
        h('thead', null, h('tr', null, ['Condition', 'Status', 'Since', 'Reason', 'Message'].map((t) => h('th', { scope: 'col' }, t)))),
        h('tbody', null, all.map((c) => h('tr', null, h('td', null, c.type), h('td', null, h(`span.badge.${c.status === 'Unknown' ? 'warn' : good(c) ? 'good' : 'warn'}`, null, c.status)), h('td', null, ageOf(c.lastTransitionTime)), h('td', null, c.reason ?? ''), h('td', null, c.message ?? '')))),
      ),
    );
  };
}

/**
 * The kinds that objects of a kind own.
 *
 * @type {Record<string, [string, string][]>}
 */
const OWNED = {
  deployments: [['apps', 'replicasets']],
  statefulsets: [['', 'pods'], ['apps', 'controllerrevisions']],
  daemonsets: [['', 'pods'], ['apps', 'controllerrevisions']],
  replicasets: [['', 'pods']],
  jobs: [['', 'pods']],
  cronjobs: [['batch', 'jobs']],
  services: [['discovery.k8s.io', 'endpointslices']],
};

/**
 * @param {Kind} kind
 * @param {Obj} o
 * @returns {Child}
 */
function owned(kind, o) {
  const wanted = OWNED[kind.name];
  if (!wanted) return null;
  const lists = wanted.flatMap(([group, name]) => {
    const k = findKind(group, name);
    return k ? [{ k, list: new Objects(k, { namespace: o.metadata.namespace }, (x) => ({ metadata: x.metadata, status: x.status, spec: { replicas: x.spec?.replicas } })) }] : [];
  });
  return () => {
    const rows = lists.flatMap(({ k, list }) => list.list.filter((x) => (x.metadata.ownerReferences ?? []).some((r) => r.uid === o.metadata.uid)).map((x) => ({ k, x })));
    if (!rows.length) return null;
    return h(
      'section',
      null,
      h('h2', null, 'Owns'),
      h('ul.rowsimple', null, rows.slice(0, 30).map(({ k, x }) => h('li', null, h('a', { href: objectLink(k, x.metadata) }, x.metadata.name), h('span.dim', null, k.kind), h('span.end', null, stateOf(x) ?? (k.name === 'replicasets' ? `${x.status?.readyReplicas ?? 0}/${x.spec?.replicas ?? 0} ready` : '')), ageOf(x.metadata.creationTimestamp)))),
      rows.length > 30 ? h('p.dim', null, `and ${plural(rows.length - 30, 'more', 'more')}`) : null,
    );
  };
}

/**
 * @typedef {object} Special
 * @property {Child} fields
 * @property {Child} sections
 */

/**
 * Returns the additional fields and sections of some kinds.
 *
 * @param {Kind} kind
 * @param {() => Obj} o
 * @param {Obj} first
 * @returns {Special}
 */
function special(kind, o, first) {
  /** @type {Special} */
  const none = { fields: null, sections: null };
  const key = `${kind.group}/${kind.name}`;
  if (key === '/pods') {
    return {
      fields: () => {
        const p = o();
        return [
          field('Node', p.spec?.nodeName ? ref('v1', 'Node', p.spec.nodeName) : '–'),
          field('Address', p.status?.podIP ?? '–'),
          field('Service account', p.spec?.serviceAccountName ? ref('v1', 'ServiceAccount', p.spec.serviceAccountName, p.metadata.namespace) : '–'),
          field('QoS', p.status?.qosClass ?? '–'),
        ];
      },
      sections: [() => containers(o()), forwardsPane(o), () => volumes(o())],
    };
  }
  if (key === '/nodes') {
    useMetrics([first.metadata.name]);
    return {
      fields: () => {
        const info = o().status?.nodeInfo ?? {};
        return [
          field('Addresses', (o().status?.addresses ?? []).map((/** @type {Any} */ a) => h('div', null, `${a.address} `, h('span.dim', null, a.type)))),
          field('System', `${info.osImage ?? ''}, ${info.kernelVersion ?? ''}, ${info.architecture ?? ''}`),
          field('Versions', `${info.kubeletVersion ?? ''}, ${info.containerRuntimeVersion ?? ''}`),
          field('Allocatable', Object.entries(o().status?.allocatable ?? {}).map(([k, v]) => h('div', null, `${k} `, h('b', null, String(v))))),
        ];
      },
      sections: h('section.cards', null, h('article.card', null, graph({ label: 'CPU', key: `node/${first.metadata.name}`, of: 'cpu' })), h('article.card', null, graph({ label: 'Memory', key: `node/${first.metadata.name}`, of: 'memory' }))),
    };
  }
  if (kind.group === 'apps' && PODS_OF.test(kind.name)) {
    return {
      fields: () => [
        field('Images', (o().spec?.template?.spec?.containers ?? []).map((/** @type {Any} */ c) => h('div', null, h('code', null, c.image)))),
        o().spec?.strategy?.type ? field('Strategy', o().spec.strategy.type) : null,
      ],
      sections: () => rollout(kind, o()),
    };
  }
  if (key === '/services') {
    return {
      fields: () => {
        const s = o().spec ?? {};
        return [
          field('Type', s.type),
          field('Cluster IP', (s.clusterIPs ?? [s.clusterIP]).join(', ')),
          field('Ports', (s.ports ?? []).map((/** @type {Any} */ p) => h('div', null, `${p.port} → ${p.targetPort}/${p.protocol}`, p.nodePort ? h('span.dim', null, ` node port ${p.nodePort}`) : null))),
          field('Load balancer', (o().status?.loadBalancer?.ingress ?? []).map((/** @type {Any} */ i) => i.ip ?? i.hostname).join(', ') || '–'),
          field('Request path', h('a', { href: link('topology') }, 'Show in the topology')),
        ];
      },
      sections: null,
    };
  }
  if (key === 'networking.k8s.io/ingresses') {
    return {
      fields: () => [field('Class', o().spec?.ingressClassName ?? '–'), field('Addresses', (o().status?.loadBalancer?.ingress ?? []).map((/** @type {Any} */ i) => i.ip ?? i.hostname).join(', ') || '–'), field('Request path', h('a', { href: link('topology') }, 'Show in the topology'))],
      sections: () => ingressRules(o()),
    };
  }
  if (key === '/configmaps' || key === '/secrets') return { fields: null, sections: () => data(o(), kind.name === 'secrets') };
  if (key === 'batch/cronjobs') {
    return {
      fields: () => [
        field('Schedule', h('code', null, o().spec?.schedule ?? '')),
        field('Suspended', o().spec?.suspend ? 'yes' : 'no'),
        field('Last run', o().status?.lastScheduleTime ? ageOf(o().status.lastScheduleTime) : '–'),
      ],
      sections: null,
    };
  }
  if (key === 'batch/jobs') {
    return {
      fields: () => {
        const s = o().status ?? {};
        return [field('Pods', `${s.active ?? 0} active, ${s.succeeded ?? 0} succeeded, ${s.failed ?? 0} failed`), field('Completions', `${s.succeeded ?? 0} of ${o().spec?.completions ?? 1}`)];
      },
      sections: null,
    };
  }
  return none;
}

/**
 * @param {Obj} o
 * @returns {Child}
 */
function ingressRules(o) {
  /** @type {Any[]} */
  const rules = o.spec?.rules ?? [];
  /**
   * @param {Any} b
   * @returns {Child}
   */
  const backend = (b) => (b?.service ? [ref('v1', 'Service', b.service.name, o.metadata.namespace), `:${b.service.port?.name ?? b.service.port?.number ?? ''}`] : (b?.resource?.name ?? '–'));
  return h(
    'section',
    null,
    h('h2', null, 'Rules'),
    h(
      'table.plain',
      { 'aria-label': 'Rules' },
      h('thead', null, h('tr', null, ['Host', 'Path', 'Type', 'Backend'].map((t) => h('th', { scope: 'col' }, t)))),
      h(
        'tbody',
        null,
        o.spec?.defaultBackend ? h('tr', null, h('td', null, '*'), h('td', null, 'all others'), h('td'), h('td', null, backend(o.spec.defaultBackend))) : null,
        rules.flatMap((r) => (r.http?.paths ?? []).map((/** @type {Any} */ p) => h('tr', null, h('td', null, r.host ?? '*'), h('td', null, h('code', null, p.path ?? '/')), h('td', null, p.pathType ?? ''), h('td', null, backend(p.backend))))),
      ),
    ),
  );
}

/**
 * @param {Kind} kind
 * @param {Obj} o
 * @returns {Child}
 */
function rollout(kind, o) {
  const s = o.status ?? {};
  const want = kind.name === 'daemonsets' ? (s.desiredNumberScheduled ?? 0) : (o.spec?.replicas ?? 1);
  /** @type {[string, number][]} */
  const parts =
    kind.name === 'daemonsets'
      ? [['Updated', s.updatedNumberScheduled ?? 0], ['Ready', s.numberReady ?? 0], ['Available', s.numberAvailable ?? 0]]
      : [['Updated', s.updatedReplicas ?? 0], ['Ready', s.readyReplicas ?? 0], ['Available', s.availableReplicas ?? 0]];
  const behind = (o.metadata.generation ?? 0) > (s.observedGeneration ?? o.metadata.generation ?? 0);
  const done = !behind && parts.every(([name, n]) => n >= want || (kind.name === 'replicasets' && name === 'Updated')) && (s.replicas ?? s.currentNumberScheduled ?? want) <= want;
  return h(
    'section.rollout',
    { 'aria-label': 'Rollout' },
    h('h2', null, 'Rollout ', h(`span.badge.${done ? 'good' : 'busy'}`, null, o.spec?.paused ? 'paused' : done ? 'complete' : 'under way')),
    parts
      .filter(([name]) => !(kind.name === 'replicasets' && name === 'Updated'))
      .map(([name, n]) => h('div.meter', null, h('span', null, name), h('progress', { max: Math.max(want, 1), value: Math.min(n, want), 'aria-label': name }), h('small', null, `${n} of ${want}`))),
  );
}

/**
 * @param {Obj} o
 * @returns {Child}
 */
function containers(o) {
  /** @type {Any[]} */
  const statuses = [...(o.status?.initContainerStatuses ?? []), ...(o.status?.containerStatuses ?? [])];
  /** @type {Any[]} */
  const all = [...(o.spec?.initContainers ?? []), ...(o.spec?.containers ?? [])];
  return h(
    'section',
    null,
    h('h2', null, 'Containers'),
    h(
      'table.plain',
      { 'aria-label': 'Containers' },
      h('thead', null, h('tr', null, ['Name', 'State', 'Restarts', 'Image', 'Requests', 'Limits'].map((t) => h('th', { scope: 'col' }, t)))),
      h(
        'tbody',
        null,
        all.map((c) => {
          const s = statuses.find((x) => x.name === c.name);
          const [state, detail] = /** @type {[string, any][]} */ (Object.entries(s?.state ?? {}))[0] ?? ['waiting', {}];
          const word = detail.reason ?? (state === 'running' ? 'Running' : state);
          /** @param {Any} x */
          const sum = (x) => Object.entries(x ?? {}).map(([k, v]) => `${k} ${v}`).join(', ') || '–';
          return h('tr', null, h('td', null, h('b', null, c.name)), h('td', { title: detail.message ?? '' }, badge(String(word))), h('td', null, String(s?.restartCount ?? 0)), h('td', null, h('code', null, c.image)), h('td', null, sum(c.resources?.requests)), h('td', null, sum(c.resources?.limits)));
        }),
      ),
    ),
  );
}

/**
 * @param {Obj} o
 * @returns {Child}
 */
function volumes(o) {
  /** @type {Any[]} */
  const all = o.spec?.volumes ?? [];
  if (!all.length) return null;
  return h(
    'section',
    null,
    h('h2', null, 'Volumes'),
    h('ul.rowsimple', null, all.map((v) => {
      const type = Object.keys(v).find((k) => k !== 'name') ?? '';
      const source = v[type] ?? {};
      const ns = o.metadata.namespace;
      const related = source.claimName ? ref('v1', 'PersistentVolumeClaim', source.claimName, ns) : type === 'configMap' ? ref('v1', 'ConfigMap', source.name, ns) : type === 'secret' ? ref('v1', 'Secret', source.secretName, ns) : null;
      return h('li', null, h('b', null, v.name), h('span.dim', null, type), related);
    })),
  );
}

/**
 * @param {Obj} o
 * @param {boolean} secret
 * @returns {Child}
 */
function data(o, secret) {
  /** @type {[string, string][]} */
  const all = Object.entries({ ...(o['data'] ?? {}), ...(o['binaryData'] ?? {}) });
  if (!all.length) return h('p.quiet', null, 'It has no data.');
  /**
   * @param {string} value
   * @returns {string}
   */
  const open = (value) => {
    try {
      return new TextDecoder('utf-8', { fatal: true }).decode(Uint8Array.from(atob(value), (c) => c.charCodeAt(0)));
    } catch {
      return `(binary) ${value}`;
    }
  };
  return h(
    'section',
    null,
    h('h2', null, 'Data'),
    all.map(([k, v]) => {
      const plain = () => (secret ? open(v) : v);
      return h('details.data', { open: !secret && all.length < 4 }, h('summary', null, h('b', null, k), h('span.dim', null, ` ${plural(v.length, 'character')}`)), h('pre', null, plain()), h('button', { onclick: () => copy(plain()) }, 'Copy'));
    }),
  );
}
