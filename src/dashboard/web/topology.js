/** A live diagram of the cluster: ingresses, services, nodes with their pods. */
import { core, findKind } from './api.js';
import { effect, h, onDispose, perFrame, reconcile, signal, svg, untracked } from './dom.js';
import { plural, tone } from './format.js';
import { nodeReady, slimPod } from './overview.js';
import { go, namespace, objectLink } from './route.js';
import { emptyState, live } from './ui.js';
import { Objects } from './watch.js';
/** @import { Any, Obj, SlimPod } from './types.d.ts' */

const PODS_SHOWN = 240;

/**
 * @typedef {object} Backend
 * @property {string} pod
 * @property {boolean} ready
 * @property {string} address
 */

/** @returns {HTMLElement} */
export function topologyView() {
  const box = h('div.view');
  effect(() => {
    const scope = { namespace: namespace.value };
    box.replaceChildren(untracked(() => picture(scope)));
  });
  return box;
}

/**
 * @param {{ namespace: string }} scope
 * @returns {HTMLElement}
 */
function picture(scope) {
  const nodes = new Objects(core('nodes'), {});
  /** @type {Objects<SlimPod>} */
  const pods = new Objects(core('pods'), scope, slimPod);
  const services = new Objects(core('services'), scope);
  const ingressKind = findKind('networking.k8s.io', 'ingresses');
  const sliceKind = findKind('discovery.k8s.io', 'endpointslices');
  const ingresses = ingressKind ? new Objects(ingressKind, scope) : null;
  const slices = sliceKind ? new Objects(sliceKind, scope) : null;
  const chosen = signal('');

  const canvas = svg('svg', { class: 'edges', 'aria-hidden': 'true' });
  const ways = h('section.lane', { 'aria-label': 'Ingresses' });
  const middle = h('section.lane', { 'aria-label': 'Services' });
  const places = h('section.lane.places', { 'aria-label': 'Nodes and pods' });
  const stage = h('div.topology', null, canvas, ways, middle, places);
  const side = h('aside.path', { 'aria-label': 'Request path', 'aria-live': 'polite' });
  const scroll = h('div.fill.split', null, h('div.scroll.flush', null, stage), side);

  /** @param {Obj} o */
  const id = (o) => `${o.metadata.namespace ?? ''}/${o.metadata.name}`;
  /**
   * @param {Obj} service
   * @returns {Backend[]}
   */
  const backends = (service) => {
    /** @type {Backend[]} */
    const found = [];
    for (const slice of slices?.list ?? []) {
      if (slice.metadata.namespace !== service.metadata.namespace) continue;
      if (slice.metadata.labels?.['kubernetes.io/service-name'] !== service.metadata.name) continue;
      for (const endpoint of slice['endpoints'] ?? []) {
        found.push({
          pod: endpoint.targetRef?.kind === 'Pod' ? `${slice.metadata.namespace}/${endpoint.targetRef.name}` : '',
          ready: endpoint.conditions?.ready !== false,
          address: (endpoint.addresses ?? [])[0] ?? '',
        });
      }
    }
    return found;
  };
  /**
   * @param {Obj} ingress
   * @returns {{ host: string; path: string; service: string; port: string }[]}
   */
  const rules = (ingress) => {
    const out = [];
    /** @param {Any} b */
    const port = (b) => String(b?.service?.port?.name ?? b?.service?.port?.number ?? '');
    const fallback = ingress.spec?.defaultBackend;
    if (fallback?.service) out.push({ host: '*', path: '/', service: fallback.service.name, port: port(fallback) });
    for (const rule of ingress.spec?.rules ?? []) {
      for (const p of rule.http?.paths ?? []) {
        if (p.backend?.service) out.push({ host: rule.host ?? '*', path: p.path ?? '/', service: p.backend.service.name, port: port(p.backend) });
      }
    }
    return out;
  };

  /** @type {Map<string, HTMLElement>} */
  const elements = new Map();
  /**
   * @param {string} key
   * @param {string} kindName
   * @param {string} title
   * @param {string} detail
   * @param {string} toneName
   * @returns {HTMLElement}
   */
  const box = (key, kindName, title, detail, toneName) => {
    let element = elements.get(key);
    if (!element) {
      element = h('button.thing', { type: 'button', onclick: () => (chosen.value = chosen.peek() === key ? '' : key) });
      elements.set(key, element);
    }
    const text = `${title}\u0000${detail}\u0000${toneName}`;
    if (element.dataset['t'] !== text) {
      element.dataset['t'] = text;
      element.className = `thing ${toneName}`;
      element.replaceChildren(h('small', null, kindName), h('b', null, title), h('span', null, detail));
    }
    return element;
  };
  /** @type {Map<string, HTMLElement>} */
  const dots = new Map();
  /**
   * @param {SlimPod} pod
   * @returns {HTMLElement}
   */
  const dot = (pod) => {
    const key = id(pod);
    let element = dots.get(key);
    if (!element) {
      element = h('a.pod', { href: objectLink(core('pods'), pod.metadata) });
      dots.set(key, element);
    }
    const mood = pod.problem ? 'bad' : pod.phase === 'Running' && !pod.ready ? 'warn' : tone(pod.phase);
    const title = `${key}: ${pod.problem || pod.phase}${pod.phase === 'Running' && !pod.ready && !pod.problem ? ', not ready' : ''}`;
    if (element.title !== title) {
      element.title = title;
      element.setAttribute('aria-label', title);
    }
    element.className = `pod ${mood}`;
    return element;
  };
  /** @type {Map<string, { element: HTMLElement; head: HTMLElement; body: HTMLElement; }>} */
  const places2 = new Map();

  /**
   * @param {HTMLElement} parent
   * @param {string} title
   * @param {HTMLElement[]} wanted
   * @param {string} none
   */
  const lane = (parent, title, wanted, none) => {
    // Elements are not moved: that would take the focus from them.
    const heading = parent.firstElementChild ?? h('h2', null, title);
    reconcile(parent, [heading, ...(wanted.length ? wanted : [h('p.dim', null, none)])]);
  };

  const draw = () => {
    /** @type {Map<string, SlimPod[]>} */
    const byNode = new Map();
    for (const pod of pods.list) {
      const list = byNode.get(pod.node);
      if (list) list.push(pod);
      else byNode.set(pod.node, [pod]);
    }
    /** @type {HTMLElement[]} */
    const wanted = [];
    const names = [...nodes.list.map((n) => n.metadata.name), ...(byNode.has('') ? [''] : [])];
    for (const name of names) {
      let place = places2.get(name);
      if (!place) {
        const head = h('header');
        const body = h('div.pods');
        place = { element: h('article.place', null, head, body), head, body };
        places2.set(name, place);
      }
      const node = nodes.list.find((n) => n.metadata.name === name);
      const mine = byNode.get(name) ?? [];
      const label = `${plural(mine.length, 'pod')}${node?.spec?.unschedulable ? ', cordoned' : ''}`;
      place.head.replaceChildren(
        node ? h(`span.dot.${nodeReady(node) ? 'good' : 'bad'}`, { 'aria-hidden': 'true' }) : '',
        node ? h('a', { href: objectLink(core('nodes'), node.metadata) }, name) : h('b', null, 'On no node yet'),
        h('small', null, label),
      );
      const shown = mine.slice(0, PODS_SHOWN).map(dot);
      if (mine.length > PODS_SHOWN) shown.push(h('small.dim', null, `and ${mine.length - PODS_SHOWN} more`));
      reconcile(place.body, shown);
      wanted.push(place.element);
    }
    lane(places, 'Nodes and pods', wanted, 'No nodes');
    lane(
      middle,
      'Services',
      services.list.map((s) => {
        const all = backends(s);
        const ready = all.filter((b) => b.ready).length;
        const ports = (s.spec?.ports ?? []).map((/** @type {Any} */ p) => p.port).join(', ');
        return box(`s:${id(s)}`, s.spec?.type ?? 'Service', s.metadata.name, `:${ports} · ${ready}/${all.length} endpoints`, all.length ? (ready === all.length ? 'good' : 'warn') : 'idle');
      }),
      'No services here',
    );
    lane(
      ways,
      'Ingresses',
      (ingresses?.list ?? []).map((i) => box(`i:${id(i)}`, 'Ingress', i.metadata.name, rules(i).map((r) => `${r.host}${r.path}`).join(', ') || 'no rules', 'good')),
      'No ingresses here',
    );
    // The panel changes the layout, on which the lines depend.
    explain();
    connect();
  };

  const connect = () => {
    const frame = stage.getBoundingClientRect();
    /** @type {SVGElement[]} */
    const lines = [];
    const lit = path();
    /**
     * @param {Element | undefined} from
     * @param {Element | undefined} to
     * @param {string} kind
     * @param {boolean} on
     */
    const edge = (from, to, kind, on) => {
      if (!from?.isConnected || !to?.isConnected) return;
      const [a, b] = [from.getBoundingClientRect(), to.getBoundingClientRect()];
      const [x1, y1] = [a.right - frame.left, a.top + a.height / 2 - frame.top];
      const [x2, y2] = [b.left - frame.left, b.top + b.height / 2 - frame.top];
      const bend = Math.max(24, (x2 - x1) / 2);
      lines.push(svg('path', { d: `M${x1} ${y1}C${x1 + bend} ${y1} ${x2 - bend} ${y2} ${x2} ${y2}`, class: `${kind}${on ? ' on' : ''}` }));
    };
    for (const ingress of ingresses?.list ?? []) {
      for (const rule of rules(ingress)) {
        const service = `s:${ingress.metadata.namespace}/${rule.service}`;
        const key = `i:${id(ingress)}`;
        edge(elements.get(key), elements.get(service), 'way', lit.has(key) && lit.has(service));
      }
    }
    // Thousands of lines would be unreadable: without a selection, one line per node.
    for (const service of services.list) {
      const key = `s:${id(service)}`;
      const from = elements.get(key);
      if (lit.has(key)) {
        for (const b of backends(service).slice(0, 200)) edge(from, dots.get(b.pod), b.ready ? 'way' : 'broken', true);
      } else if (!chosen.peek()) {
        /** @type {Set<string>} */
        const at = new Set();
        for (const b of backends(service)) {
          const pod = pods.items.size < 2000 ? pods.list.find((p) => id(p) === b.pod) : undefined;
          if (pod) at.add(pod.node);
        }
        for (const node of at) edge(from, places2.get(node)?.element, 'way', false);
      }
    }
    canvas.replaceChildren(...lines);
    for (const [key, element] of elements) {
      element.classList.toggle('lit', lit.has(key));
      element.classList.toggle('faded', lit.size > 0 && !lit.has(key));
      element.setAttribute('aria-pressed', String(chosen.peek() === key));
    }
    for (const [key, element] of dots) element.classList.toggle('faded', lit.size > 0 && !lit.has(`p:${key}`));
  };

  /**
   * Returns everything that a request through the selection may pass.
   *
   * @returns {Set<string>}
   */
  const path = () => {
    const key = chosen.peek();
    /** @type {Set<string>} */
    const lit = new Set();
    if (!key) return lit;
    lit.add(key);
    /** @type {Set<string>} */
    const through = new Set();
    if (key.startsWith('i:')) {
      const ingress = ingresses?.list.find((i) => `i:${id(i)}` === key);
      if (ingress) for (const rule of rules(ingress)) through.add(`s:${ingress.metadata.namespace}/${rule.service}`);
    } else {
      through.add(key);
      for (const ingress of ingresses?.list ?? []) {
        if (rules(ingress).some((r) => `s:${ingress.metadata.namespace}/${r.service}` === key)) lit.add(`i:${id(ingress)}`);
      }
    }
    for (const service of services.list) {
      if (!through.has(`s:${id(service)}`)) continue;
      lit.add(`s:${id(service)}`);
      for (const b of backends(service)) lit.add(`p:${b.pod}`);
    }
    return lit;
  };

  const explain = () => {
    const key = chosen.peek();
    side.hidden = !key;
    if (!key) return;
    const lit = path();
    /** @type {HTMLElement[]} */
    const steps = [];
    for (const i of ingresses?.list ?? []) {
      if (!lit.has(`i:${id(i)}`) || !ingressKind) continue;
      steps.push(
        h('li', null, h('small', null, 'Ingress'), h('a', { href: objectLink(ingressKind, i.metadata) }, i.metadata.name), h('ul', null, rules(i).map((r) => h('li', null, `${r.host}${r.path} → ${r.service}:${r.port}`)))),
      );
    }
    for (const s of services.list) {
      if (!lit.has(`s:${id(s)}`)) continue;
      const all = backends(s);
      steps.push(
        h(
          'li',
          null,
          h('small', null, `Service · ${s.spec?.type ?? ''}`),
          h('a', { href: objectLink(core('services'), s.metadata) }, s.metadata.name),
          h('ul', null, (s.spec?.ports ?? []).map((/** @type {Any} */ p) => h('li', null, `${s.spec?.clusterIP ?? ''}:${p.port} → ${p.targetPort ?? p.port}/${p.protocol ?? 'TCP'}`))),
        ),
        h(
          'li',
          null,
          h('small', null, plural(all.length, 'endpoint')),
          all.length ? null : h('p.dim', null, 'Nothing answers: no pod matches the selector, or none is ready.'),
          h(
            'ul',
            null,
            all.slice(0, 50).map((b) => {
              const pod = pods.list.find((p) => id(p) === b.pod);
              return h('li', null, h(`span.dot.${b.ready ? 'good' : 'warn'}`, { role: 'img', 'aria-label': b.ready ? 'ready' : 'not ready' }), pod ? h('a', { href: objectLink(core('pods'), pod.metadata) }, pod.metadata.name) : b.address, h('span.dim', null, pod?.node ?? ''));
            }),
          ),
        ),
      );
    }
    const target = key.startsWith('s:') ? services.list.find((s) => `s:${id(s)}` === key) : ingresses?.list.find((i) => `i:${id(i)}` === key);
    const kind = key.startsWith('s:') ? core('services') : ingressKind;
    side.replaceChildren(
      h('header', null, h('h2', null, 'Request path'), h('button.plain', { 'aria-label': 'Close', onclick: () => (chosen.value = '') }, '×')),
      h('ol', null, ...steps),
      target && kind ? h('button', { onclick: () => go(objectLink(kind, target.metadata)) }, `Open ${target.metadata.name}`) : '',
    );
  };

  const soon = perFrame(draw);
  effect(() => {
    void nodes.tick.value;
    void pods.tick.value;
    void services.tick.value;
    void ingresses?.tick.value;
    void slices?.tick.value;
    void chosen.value;
    soon();
  });
  const resize = new ResizeObserver(soon);
  resize.observe(stage);
  onDispose(() => resize.disconnect());
  return h(
    'section.view',
    { 'aria-label': 'Topology' },
    h(
      'header.bar',
      null,
      h('h1', null, 'Topology'),
      h('span.dim.wide', null, 'Choose an ingress or a service to follow a request'),
      h('div.spring'),
      h('span.legend', null, ['good', 'busy', 'warn', 'bad', 'idle'].map((t, i) => h('span', null, h(`i.pod.${t}`, { 'aria-hidden': 'true' }), ['ready', 'starting', 'not ready', 'failing', 'done'][i] ?? ''))),
      live(() => pods.follower.phase.value, () => pods.follower.error.value),
    ),
    () => (nodes.follower.phase.value === 'failed' ? emptyState('Cannot be shown', nodes.follower.error.value) : scroll),
  );
}
