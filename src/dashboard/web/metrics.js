/**
 * Resource usage of nodes, pods and containers: the kubelets' statistics, which are
 * polled while a view shows them. They cannot be watched.
 */
import { api, core, path } from './api.js';
import { h, onDispose, signal, svg } from './dom.js';
import { bytes, cpu } from './format.js';
/** @import { Any, Obj, Sample, Signal } from './types.d.ts' */

const EVERY = 5000;
const KEPT = 120;

/**
 * Samples by `node/NAME`, `pod/NAMESPACE/NAME`, `container/NAMESPACE/NAME/CONTAINER`.
 *
 * @type {Map<string, Sample[]>}
 */
const series = new Map();

/** @type {Map<string, { time: number; used: number; }>} */
const last = new Map();

/** @type {Signal<number>} */
export const metricsTick = signal(0);

/** @type {Signal<string>} */
export const metricsError = signal('');

/** @type {Map<string, number>} */
const wanted = new Map();
let timer = 0;

/**
 * @param {string} key
 * @param {Any} usage
 */
function take(key, usage) {
  const time = Date.parse(usage.cpu?.time ?? usage.memory?.time ?? '') || Date.now();
  const used = usage.cpu?.usageCoreNanoSeconds;
  let cores = Number.isFinite(usage.cpu?.usageNanoCores) ? usage.cpu.usageNanoCores / 1e9 : NaN;
  const before = last.get(key);
  if (Number.isFinite(used)) {
    if (before && used >= before.used && time > before.time) cores = (used - before.used) / 1e6 / (time - before.time);
    if (!before || time > before.time) last.set(key, { time, used });
    else return;
  }
  const all = series.get(key) ?? [];
  all.push({ time, cpu: cores, memory: usage.memory?.workingSetBytes ?? NaN });
  if (all.length > KEPT) all.shift();
  series.set(key, all);
}

/**
 * @param {string} node
 * @returns {Promise<void>}
 */
async function read(node) {
  const summary = await api(`${path(core('nodes'), undefined, node)}/proxy/stats/summary`);
  take(`node/${node}`, summary.node ?? {});
  for (const pod of summary.pods ?? []) {
    const { namespace, name } = pod.podRef ?? {};
    take(`pod/${namespace}/${name}`, pod);
    for (const c of pod.containers ?? []) take(`container/${namespace}/${name}/${c.name}`, c);
  }
}

/** @returns {Promise<void>} */
async function round() {
  if (!document.hidden) {
    const results = await Promise.allSettled([...wanted.keys()].map(read));
    const bad = results.find((r) => r.status === 'rejected');
    metricsError.value = bad && results.every((r) => r.status === 'rejected') ? /** @type {Error} */ (bad.reason).message : '';
    metricsTick.value = metricsTick.peek() + 1;
    const old = Date.now() - KEPT * EVERY;
    for (const [key, all] of series) {
      if ((all[all.length - 1]?.time ?? 0) < old) {
        series.delete(key);
        last.delete(key);
      }
    }
  }
  if (wanted.size) timer = window.setTimeout(() => void round(), EVERY);
}

/**
 * Polls the statistics of nodes until the current view is disposed of.
 *
 * @param {string[]} nodes
 */
export function useMetrics(nodes) {
  const idle = wanted.size === 0;
  for (const node of nodes) wanted.set(node, (wanted.get(node) ?? 0) + 1);
  if (idle && wanted.size) {
    clearTimeout(timer);
    void round();
  } else if (nodes.length) {
    clearTimeout(timer);
    timer = window.setTimeout(() => void round(), 100);
  }
  onDispose(() => {
    for (const node of nodes) {
      const left = (wanted.get(node) ?? 1) - 1;
      if (left) wanted.set(node, left);
      else wanted.delete(node);
    }
  });
}

/**
 * @param {string} key
 * @returns {Sample[]}
 */
export const samples = (key) => series.get(key) ?? [];

/**
 * @param {string} key
 * @returns {Sample | undefined}
 */
export const latest = (key) => {
  const all = samples(key);
  return all[all.length - 1];
};

/**
 * @typedef {object} Graph
 * @property {string} label
 * @property {string} key
 * @property {'cpu' | 'memory'} of
 * @property {number} [limit] The top of the scale, where there is one.
 */

/**
 * Returns a small live graph with the current value.
 *
 * @param {Graph} options
 * @returns {HTMLElement}
 */
export function graph({ label, key, of, limit }) {
  const line = svg('path', { class: 'line' });
  const area = svg('path', { class: 'area' });
  const picture = svg('svg', { viewBox: '0 0 100 30', preserveAspectRatio: 'none', class: `graph ${of}`, 'aria-hidden': 'true' }, area, line);
  const show = of === 'cpu' ? cpu : bytes;
  const value = () => {
    void metricsTick.value;
    return latest(key)?.[of] ?? NaN;
  };
  const update = () => {
    const all = samples(key).filter((s) => Number.isFinite(s[of]));
    if (all.length < 2) return;
    const end = all[all.length - 1]?.time ?? 0;
    const peak = Math.max(...all.map((s) => s[of]), of === 'cpu' ? 0.01 : 1);
    const top = limit && peak > limit / 4 ? Math.max(limit, peak) : peak * 1.3;
    // Less than a minute of samples does not fill the graph.
    const span = Math.max(60_000, end - (all[0]?.time ?? end));
    const points = all.map((s) => `${(100 - ((end - s.time) / span) * 100).toFixed(2)} ${(30 - (s[of] / top) * 28).toFixed(2)}`);
    line.setAttribute('d', `M${points.join('L')}`);
    area.setAttribute('d', `M${points[0]?.split(' ')[0]} 30L${points.join('L')}L100 30Z`);
  };
  const element = h(
    'figure.metric',
    null,
    h('figcaption', null, h('span', null, label), h('b', null, () => {
      update();
      return show(value());
    }), limit ? h('small', null, `of ${show(limit)}`) : null),
    picture,
  );
  return element;
}

/**
 * Returns the graphs of a pod and its containers.
 *
 * @param {() => Obj} pod
 * @returns {HTMLElement}
 */
export function podMetrics(pod) {
  const { metadata, spec } = pod();
  /** @type {string | undefined} */
  const node = spec?.nodeName;
  if (!node) return h('p.dim', null, 'The pod is on no node yet.');
  useMetrics([node]);
  const key = `${metadata.namespace}/${metadata.name}`;
  /** @type {Any[]} */
  const containers = spec.containers ?? [];
  return h(
    'div.scroll',
    null,
    () => (metricsError.value ? h('p.warning', null, `There are no metrics: ${metricsError.value}`) : null),
    h('section.cards', null, card('Pod', `pod/${key}`), containers.map((c) => card(c.name, `container/${key}/${c.name}`))),
    h('p.dim', null, 'Read from the node agent every five seconds while this page is open.'),
  );
}

/**
 * @param {string} title
 * @param {string} key
 * @returns {HTMLElement}
 */
const card = (title, key) =>
  h('article.card', null, h('h2', null, title), graph({ label: 'CPU', key, of: 'cpu' }), graph({ label: 'Memory', key, of: 'memory' }));
