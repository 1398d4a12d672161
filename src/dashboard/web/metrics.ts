/**
 * What nodes, pods and containers use: the node agents' statistics, asked for
 * while somebody looks. The API server has nothing to watch here.
 */
import { api, core, path, type Any, type Obj } from './api.js';
import { h, onDispose, signal, svg, type Signal } from './dom.js';
import { bytes, cpu } from './format.js';

const EVERY = 5000;
const KEPT = 120;

export interface Sample {
  time: number;
  /** Cores; NaN until two readings are there. */
  cpu: number;
  /** Bytes. */
  memory: number;
}

/** Samples by `node/NAME`, `pod/NAMESPACE/NAME`, `container/NAMESPACE/NAME/CONTAINER`. */
const series = new Map<string, Sample[]>();
const last = new Map<string, { time: number; used: number }>();
export const metricsTick: Signal<number> = signal(0);
export const metricsError: Signal<string> = signal('');

const wanted = new Map<string, number>();
let timer = 0;

function take(key: string, usage: Any): void {
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

async function read(node: string): Promise<void> {
  const summary = await api(`${path(core('nodes'), undefined, node)}/proxy/stats/summary`);
  take(`node/${node}`, summary.node ?? {});
  for (const pod of summary.pods ?? []) {
    const { namespace, name } = pod.podRef ?? {};
    take(`pod/${namespace}/${name}`, pod);
    for (const c of pod.containers ?? []) take(`container/${namespace}/${name}/${c.name}`, c);
  }
}

async function round(): Promise<void> {
  if (!document.hidden) {
    const results = await Promise.allSettled([...wanted.keys()].map(read));
    const bad = results.find((r): r is PromiseRejectedResult => r.status === 'rejected');
    metricsError.value = bad && results.every((r) => r.status === 'rejected') ? (bad.reason as Error).message : '';
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

/** Asks for a node's statistics until what is being built is taken away. */
export function useMetrics(nodes: string[]): void {
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

export const samples = (key: string): Sample[] => series.get(key) ?? [];
export const latest = (key: string): Sample | undefined => {
  const all = samples(key);
  return all[all.length - 1];
};

interface Graph {
  label: string;
  key: string;
  of: 'cpu' | 'memory';
  /** The top of the scale, where there is one. */
  limit?: number;
}

/** A small live graph with its present value. */
export function graph({ label, key, of, limit }: Graph): HTMLElement {
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
    // The picture fills from a minute on.
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

/** The graphs of a pod and its containers. */
export function podMetrics(pod: () => Obj): HTMLElement {
  const { metadata, spec } = pod();
  const node: string | undefined = spec?.nodeName;
  if (!node) return h('p.dim', null, 'The pod is on no node yet.');
  useMetrics([node]);
  const key = `${metadata.namespace}/${metadata.name}`;
  const containers: Any[] = spec.containers ?? [];
  return h(
    'div.scroll',
    null,
    () => (metricsError.value ? h('p.warning', null, `There are no metrics: ${metricsError.value}`) : null),
    h('section.cards', null, card('Pod', `pod/${key}`), containers.map((c) => card(c.name, `container/${key}/${c.name}`))),
    h('p.dim', null, 'Read from the node agent every five seconds while this page is open.'),
  );
}

const card = (title: string, key: string): HTMLElement =>
  h('article.card', null, h('h2', null, title), graph({ label: 'CPU', key, of: 'cpu' }), graph({ label: 'Memory', key, of: 'memory' }));
