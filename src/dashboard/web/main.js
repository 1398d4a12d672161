/** The page's frame: sidebar, namespace, palette, theme, and which view is shown. */
import { core, discover, json, kinds, profile, serverPort } from './api.js';
import { createView } from './apply.js';
import { clusterView } from './cluster.js';
import { detailView } from './detail.js';
import { append, effect, h, root, signal, untracked, onDispose } from './dom.js';
import { icon } from './icons.js';
import { listView } from './list.js';
import { overviewView } from './overview.js';
import { palette } from './palette.js';
import { link, listLink, namespace, read, route, setNamespace, go } from './route.js';
import { shortcutsOn, showKeys } from './keys.js';
import { connected, refused } from './streams.js';
import { topologyView } from './topology.js';
import { action, emptyPage, keepFocus } from './ui.js';
import { Objects } from './watch.js';
/** @import { Child, Kind, Obj, Signal } from './types.d.ts' */

/** @type {Signal<{ profile: string; profiles: string[]; version: string; port: number; } | null>} */
const session = signal(null);
const trouble = signal('');

/** @type {Signal<string[]>} */
const namespaces = signal([]);
const menuOpen = signal(false);

/** Changes when everything must be drawn again: another profile, a cluster that started. */
const epoch = signal(0);

/** @typedef {'dark' | 'light' | ''} Theme */
/** @type {Signal<Theme>} */
const theme = signal(/** @type {Theme | null} */ (localStorage.getItem('theme')) ?? '');
effect(() => {
  if (theme.value) document.documentElement.dataset['theme'] = theme.value;
  else delete document.documentElement.dataset['theme'];
  localStorage.setItem('theme', theme.value);
});

/** @returns {boolean} */
const isDark = () => (theme.value ? theme.value === 'dark' : matchMedia('(prefers-color-scheme: dark)').matches);
const toggleTheme = () => {
  theme.value = untracked(isDark) ? 'light' : 'dark';
};

/** @type {[string, string, (k: Kind) => boolean][]} */
const GROUPS = [
  ['Workloads', 'workload', (k) => k.group === 'apps' || k.group === 'batch' || k.group === 'autoscaling' || (k.group === '' && /^(pods|replicationcontrollers|podtemplates)$/.test(k.name))],
  ['Network', 'network', (k) => k.group === 'networking.k8s.io' || k.group === 'discovery.k8s.io' || (k.group === '' && /^(services|endpoints)$/.test(k.name))],
  ['Config', 'config', (k) => (k.group === '' && /^(configmaps|secrets|resourcequotas|limitranges)$/.test(k.name)) || k.group === 'policy' || k.group === 'scheduling.k8s.io'],
  ['Storage', 'storage', (k) => k.group === 'storage.k8s.io' || (k.group === '' && /^persistentvolume/.test(k.name))],
  ['Access', 'access', (k) => k.group === 'rbac.authorization.k8s.io' || k.group === 'certificates.k8s.io' || (k.group === '' && k.name === 'serviceaccounts')],
  ['Cluster', 'cluster', (k) => k.group === '' || /^(apiregistration|admissionregistration|coordination|events|flowcontrol\.apiserver|node|resource|apiextensions|internal\.apiserver|storagemigration)\./.test(k.group)],
];

/** The kinds that come first in their group. */
const FIRST = ['pods', 'deployments', 'statefulsets', 'daemonsets', 'jobs', 'cronjobs', 'replicasets', 'services', 'ingresses', 'configmaps', 'secrets', 'nodes', 'namespaces', 'events'];

/** @returns {HTMLElement} */
function sidebar() {
  const wanted = signal('');
  /**
   * @param {string} href
   * @param {string} name
   * @param {string} label
   * @param {() => boolean} current
   */
  const entry = (href, name, label, current) =>
    h('a', { href, 'aria-current': () => (current() ? 'page' : null) }, icon(name, 15), h('span', null, label));
  /** @param {string} name */
  const view = (name) => () => route.value.view === name;
  /** @param {Kind} k */
  const shown = (k) => () => (route.value.view === 'list' || route.value.view === 'object') && route.value.parts[0] === (k.group || 'core') && route.value.parts[1] === k.name;
  /** @type {Set<string>} */
  const open = new Set(/** @type {string[]} */ (JSON.parse(localStorage.getItem('open') ?? '["Workloads","Network","Config"]')));
  /** @param {Kind} k */
  const rank = (k) => {
    const at = FIRST.indexOf(k.name);
    return at < 0 ? 99 : at;
  };
  /** @returns {Child} */
  const groups = () => {
    const query = wanted.value.toLowerCase();
    const left = new Set(kinds.value.filter((k) => k.verbs.includes('list') && !(k.group === 'events.k8s.io')));
    /** @type {Child[]} */
    const out = [];
    /**
     * @param {string} title
     * @param {string} iconName
     * @param {Kind[]} list
     */
    const section = (title, iconName, list) => {
      const matching = list.filter((k) => !query || `${k.kind} ${k.name} ${k.short.join(' ')}`.toLowerCase().includes(query));
      if (!matching.length) return;
      matching.sort((a, b) => rank(a) - rank(b) || a.kind.localeCompare(b.kind));
      out.push(
        h(
          'details',
          {
            open: Boolean(query) || open.has(title),
            ontoggle: (/** @type {Event} */ event) => {
              if (query) return;
              if (/** @type {HTMLDetailsElement} */ (event.target).open) open.add(title);
              else open.delete(title);
              localStorage.setItem('open', JSON.stringify([...open]));
            },
          },
          h('summary', null, icon(iconName, 15), h('span', null, title)),
          matching.map((k) => h('a', { href: listLink(k), title: k.group || 'core', 'aria-current': () => (shown(k)() ? 'page' : null) }, h('span', null, k.kind))),
        ),
      );
    };
    const named = GROUPS.map(([title, iconName, test]) => {
      const mine = [...left].filter(test);
      mine.forEach((k) => left.delete(k));
      return /** @type {const} */ ([title, iconName, mine]);
    });
    for (const [title, iconName, mine] of named) section(title, iconName, mine);
    /** @type {Map<string, Kind[]>} */
    const custom = new Map();
    for (const k of left) custom.set(k.group, [...(custom.get(k.group) ?? []), k]);
    for (const [group, list] of [...custom].sort(([a], [b]) => a.localeCompare(b))) section(group, 'custom', list);
    return out;
  };
  return h(
    'nav.sidebar',
    { 'aria-label': 'Kinds', class: () => `sidebar${menuOpen.value ? ' open' : ''}`, onclick: (/** @type {Event} */ e) => /** @type {HTMLElement} */ (e.target).closest('a') && (menuOpen.value = false) },
    h('div.brand', null, h('img', { src: '/icon.svg', alt: '', width: 22, height: 22 }), h('b', null, 'rkube'), () => {
      const s = session.value;
      if (!s) return null;
      const all = s.profiles.includes(profile.value) ? s.profiles : [...s.profiles, profile.value];
      return all.length > 1
        ? h('select', { 'aria-label': 'Profile', onchange: (/** @type {Event} */ e) => go(`#/${encodeURIComponent(/** @type {HTMLSelectElement} */ (e.target).value)}/overview`) }, all.map((p) => h('option', { value: p, selected: p === profile.value }, p)))
        : h('span.dim', null, profile.value);
    }),
    h('div.views', null, () => {
      void profile.value;
      return [
        entry(link('overview'), 'overview', 'Overview', view('overview')),
        entry(link('topology'), 'topology', 'Topology', view('topology')),
        entry(link('cluster'), 'cluster', 'Cluster', view('cluster')),
        entry(link('create'), 'plus', 'Create', view('create')),
      ];
    }),
    h('input.kindsearch', { type: 'search', placeholder: 'Find a kind', 'aria-label': 'Find a kind', oninput: (/** @type {Event} */ e) => (wanted.value = /** @type {HTMLInputElement} */ (e.target).value) }),
    h('div.kinds', null, groups),
    h('footer', null, h('span.dim', null, () => session.value?.version ?? '')),
  );
}

/** @returns {HTMLElement} */
function topbar() {
  return h(
    'header.topbar',
    null,
    h('button.plain.menu', { 'aria-label': 'Menu', 'aria-expanded': () => String(menuOpen.value), onclick: () => (menuOpen.value = !menuOpen.peek()) }, icon('menu')),
    h('label.namespace', null, h('span', null, 'Namespace'), () =>
      h(
        'select',
        { 'aria-label': 'Namespace', onchange: (/** @type {Event} */ e) => setNamespace(/** @type {HTMLSelectElement} */ (e.target).value) },
        h('option', { value: '', selected: !namespace.value }, 'All'),
        [...new Set([...namespaces.value, ...(namespace.value ? [namespace.value] : [])])].map((n) => h('option', { value: n, selected: n === namespace.value }, n)),
      ),
    ),
    h('div.spring'),
    h('button.palettebutton', { onclick: openPalette, 'aria-label': 'Go to anything, Ctrl K' }, icon('search', 14), h('span', null, 'Go to anything'), h('kbd', null, 'Ctrl K')),
    h('button.plain', { 'aria-label': () => (isDark() ? 'Light theme' : 'Dark theme'), onclick: toggleTheme }, () => icon(isDark() ? 'sun' : 'moon')),
  );
}

function openPalette() {
  palette([
    { label: 'Switch between dark and light', detail: 'theme', run: toggleTheme },
    { label: 'Keys', detail: 'shortcuts, and whether single keys are', run: showKeys },
    ...(session.peek()?.profiles ?? [])
      .filter((p) => p !== profile.peek())
      .map((p) => ({ label: `Profile ${p}`, detail: 'another cluster', run: () => go(`#/${encodeURIComponent(p)}/overview`) })),
  ]);
}

/** @type {Record<string, () => HTMLElement>} */
const VIEWS = {
  overview: overviewView,
  topology: topologyView,
  list: listView,
  object: detailView,
  cluster: clusterView,
  create: createView,
};

/**
 * Draws everything again after the cluster was replaced.
 *
 * @returns {Promise<void>}
 */
export async function reload() {
  // The page's own commands create and delete profiles.
  session.value = await json('/rkube/session').catch(() => session.peek());
  const left = session.peek()?.profiles ?? [];
  const other = left[0];
  if (other && !left.includes(profile.peek())) go(`#/${encodeURIComponent(other)}/overview`);
  else await open();
}

let opening = 0;

/** @returns {Promise<void>} */
async function open() {
  const mine = ++opening;
  try {
    await discover();
    if (mine !== opening) return;
    trouble.value = '';
  } catch (error) {
    if (mine !== opening) return;
    kinds.value = [];
    trouble.value = /** @type {Error} */ (error).message;
  }
  epoch.value = epoch.peek() + 1;
}

/** @returns {HTMLElement} */
function content() {
  const main = h('main', { id: 'main', tabindex: -1 });
  effect(() => {
    const name = computedView();
    const round = epoch.value;
    main.replaceChildren();
    if (!round) return;
    const [element, dispose] = root(() => {
      if (trouble.peek() && name !== 'cluster') return unreachable();
      // Views need the result of discovery.
      if (!kinds.peek().length && name !== 'cluster') return h('p.quiet', null, 'Loading…');
      return (VIEWS[name] ?? overviewView)();
    });
    main.append(element);
    onDispose(dispose);
  });
  return main;
}

/** @returns {Child} */
function offline() {
  if (connected.value) return null;
  return h(
    'p.warning',
    { role: 'alert' },
    refused.value
      ? 'Another dashboard answers here now. Open it by the link that `rkube dashboard` printed.'
      : 'The dashboard does not answer; what you see is behind. Does `rkube dashboard` still run? Trying again…',
  );
}

/** @type {Record<string, string>} */
const TITLES = { overview: 'Overview', topology: 'Topology', cluster: 'Cluster', create: 'Create' };
effect(() => {
  const { view, parts } = route.value;
  const what = TITLES[view] ?? (view === 'object' ? `${parts[3] ?? ''}${parts[4] ? ` ${parts[4]}` : ''}` : (parts[1] ?? ''));
  document.title = [what, profile.value, 'rkube'].filter(Boolean).join(' · ');
});

const viewName = signal('overview');
effect(() => {
  const { view, parts } = route.value;
  // Lists of two kinds are two views; two tabs of an object are one.
  viewName.value = view === 'list' ? `list ${parts.join('/')}` : view;
});

/** @returns {string} */
const computedView = () => viewName.value.split(' ')[0] ?? 'overview';

/** @returns {HTMLElement} */
function unreachable() {
  return emptyPage(
    `${profile.peek()} does not answer`,
    trouble.peek(),
    h('div.buttons', null, action('restart', 'Try again', () => void reload()), h('a.button.primary', { href: link('cluster') }, 'Cluster')),
  );
}

function keys() {
  let leader = 0;
  document.addEventListener('keydown', (event) => {
    const target = /** @type {HTMLElement} */ (event.target);
    const typing = /^(INPUT|TEXTAREA|SELECT)$/.test(target.tagName) && /** @type {HTMLInputElement} */ (target).type !== 'checkbox';
    if ((event.ctrlKey || event.metaKey) && event.key.toLowerCase() === 'k' && !target.classList.contains('terminput')) {
      event.preventDefault();
      openPalette();
      return;
    }
    if (typing || event.ctrlKey || event.metaKey || event.altKey || document.querySelector('dialog[open]')) return;
    // Speech input may type single letters by accident.
    if (!shortcutsOn()) return;
    if (event.key === '?') {
      event.preventDefault();
      showKeys();
    } else if (event.key === '/') {
      /** @type {HTMLElement | null} */
      const search = document.querySelector('main [data-search]');
      if (search) {
        event.preventDefault();
        search.focus();
      }
    } else if (event.key === 'g') {
      leader = Date.now();
    } else if (Date.now() - leader < 1000) {
      const to = { o: 'overview', t: 'topology', c: 'cluster', n: 'create' }[event.key];
      leader = 0;
      if (to) go(link(to));
      else if (event.key === 'p') go(listLink(core('pods')));
      else if (event.key === 'd') go(link('list', ['apps', 'deployments']));
    }
  });
}

/** @returns {Promise<void>} */
async function start() {
  // The token has been used and must not stay in the address.
  if (location.search) history.replaceState(null, '', location.pathname + location.hash);
  const app = document.getElementById('app');
  if (!app) return;
  append(app, [
    h('a.skip', { href: '#main', onclick: (/** @type {Event} */ e) => (e.preventDefault(), document.getElementById('main')?.focus()) }, 'Skip to the content'),
    sidebar(),
    h('div.column', null, topbar(), offline, content()),
  ]);
  keys();
  try {
    session.value = await json('/rkube/session');
  } catch (error) {
    document.body.replaceChildren(emptyPage('The dashboard cannot be opened', /** @type {Error} */ (error).message));
    return;
  }
  serverPort.value = session.peek()?.port ?? 0;
  read();
  if (!profile.peek()) profile.value = session.peek()?.profile ?? '';
  if (!location.hash) go(link('overview'), true);
  window.addEventListener('hashchange', () => {
    read();
    // Keyboard users continue in the view that they opened.
    keepFocus();
  });
  effect(() => {
    void profile.value;
    untracked(() => void open());
  });
  effect(() => {
    if (!epoch.value || !kinds.value.length) return;
    const list = untracked(() => new Objects(core('namespaces'), {}, (/** @type {Obj} */ o) => ({ metadata: o.metadata })));
    effect(() => {
      namespaces.value = list.list.map((n) => n.metadata.name);
    });
  });
  // Custom resource definitions add and remove kinds.
  effect(() => {
    if (!epoch.value) return;
    const crd = untracked(() => kinds.peek().find((k) => k.name === 'customresourcedefinitions'));
    if (!crd) return;
    const list = untracked(() => new Objects(crd, {}, (/** @type {Obj} */ o) => ({ metadata: { name: o.metadata.name, uid: o.metadata.uid ?? '' }, ready: (o.status?.conditions ?? []).some((/** @type {{ type: string; status: string }} */ c) => c.type === 'Established' && c.status === 'True') })));
    let known = '';
    effect(() => {
      const names = list.list.map((o) => `${o.metadata.name}:${o['ready']}`).join();
      if (known && names !== known) setTimeout(() => void discover(), 300);
      known = names || 'none';
    });
  });
}

void start();
