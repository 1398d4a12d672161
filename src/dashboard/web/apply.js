/** Applies edited YAML, after a dry run whose differences are shown. */
import { api, ApiError, find, findKind, json, kindOf, path } from './api.js';
import { h } from './dom.js';
import { view } from './diff.js';
import { link, namespace, objectLink, route, go } from './route.js';
import { editor } from './editor.js';
import { attempt, dialog, note } from './ui.js';
import { write } from './yaml.js';
/** @import { Any, Editor, Kind, Meta, Obj } from './types.d.ts' */

const FIELD_MANAGER = 'fieldManager=rkube-dashboard';

/**
 * Returns an object for the editor: names first, without field managers.
 *
 * @param {Obj} o
 * @returns {Obj}
 */
export function editable(o) {
  const { managedFields: _, name, generateName, namespace: ns, labels, annotations, ...rest } = structuredClone(o.metadata);
  const metadata = /** @type {Meta} */ ({ name, generateName, namespace: ns, labels, annotations, ...rest });
  const { apiVersion, kind, metadata: __, ...others } = structuredClone(o);
  return { ...(apiVersion ? { apiVersion } : {}), ...(kind ? { kind } : {}), metadata, ...others };
}

/**
 * Returns the documents of a text. Syntax errors are marked in the editor.
 *
 * @param {Editor} source
 * @returns {Promise<Obj[] | null>}
 */
async function documents(source) {
  const parsed = await json('/rkube/yaml', { method: 'POST', body: source.text(), type: 'application/yaml' });
  if (parsed.error) {
    if (parsed.line) source.mark(parsed.line);
    note(parsed.error, 'bad');
    return null;
  }
  /** @type {Obj[]} */
  const found = parsed.documents.flatMap((/** @type {Any} */ d) => (d?.kind === 'List' ? (d.items ?? []) : [d]));
  for (const d of found) {
    if (!d?.apiVersion || !d.kind || !(d.metadata?.name || d.metadata?.generateName)) {
      note('Every object needs apiVersion, kind and metadata.name', 'bad');
      return null;
    }
  }
  return found;
}

/**
 * Returns an object without the fields that change with every write.
 *
 * @param {Obj} o
 * @returns {string}
 */
function comparable(o) {
  const copy = editable(o);
  delete copy.metadata.resourceVersion;
  delete copy.metadata.generation;
  return write(copy);
}

/**
 * Returns the editor of an existing object.
 *
 * @param {Kind} kind
 * @param {() => Obj} current
 * @param {boolean} readonly
 * @returns {HTMLElement}
 */
export function editPane(kind, current, readonly) {
  let base = current();
  const source = editor(write(editable(base)), readonly);
  const reload = () => {
    base = current();
    source.replace(write(editable(base)));
  };
  const apply = async () => {
    const found = await documents(source).catch((/** @type {Error} */ error) => {
      note(error.message, 'bad');
      return null;
    });
    const wanted = found?.[0];
    if (!wanted) return;
    const target = path(kind, base.metadata.namespace, base.metadata.name);
    try {
      /** @type {string[]} */
      const warnings = [];
      const dry = await api(`${target}?dryRun=All&${FIELD_MANAGER}`, {
        method: 'PUT',
        body: wanted,
        warn: (text) => warnings.push(text),
      });
      const changes = view(comparable(base), comparable(dry));
      if (!changes.changed) {
        note('Nothing would change');
        return;
      }
      dialog(
        `Changes to ${base.metadata.name}`,
        (close) => [
          warnings.map((w) => h('p.warning', null, w)),
          h('p.dim', null, 'As the server would store them, tried without storing.'),
          changes.element,
          h(
            'div.buttons',
            null,
            h('button', { onclick: close }, 'Back'),
            h(
              'button.primary',
              {
                autofocus: true,
                onclick: async () => {
                  const stored = await attempt('Applied', async () => {
                    base = await api(`${target}?${FIELD_MANAGER}`, { method: 'PUT', body: wanted });
                  });
                  if (stored) {
                    source.replace(write(editable(base)));
                    close();
                  }
                },
              },
              'Apply',
            ),
          ),
        ],
        true,
      );
    } catch (error) {
      const conflict = error instanceof ApiError && error.status === 409;
      note(conflict ? `${/** @type {Error} */ (error).message} Reload and edit again.` : /** @type {Error} */ (error).message, 'bad');
    }
  };
  return h(
    'div.fill.column',
    null,
    h(
      'div.bar.tools',
      null,
      h('span.dim', null, readonly ? 'Read only' : 'Ctrl-Space completes, Ctrl-Enter shows what would change'),
      h('div.spring'),
      h('button', { onclick: reload }, 'Reload'),
      readonly ? null : h('button.primary', { onclick: () => void apply() }, 'Review and apply'),
    ),
    h(
      'div.fill',
      {
        onkeydown: (/** @type {KeyboardEvent} */ event) => {
          if (event.key === 'Enter' && (event.ctrlKey || event.metaKey) && !readonly) {
            event.preventDefault();
            void apply();
          }
        },
      },
      source.element,
    ),
  );
}

const EXAMPLE = `apiVersion: apps/v1
kind: Deployment
metadata:
  name: kubia
spec:
  replicas: 3
  selector:
    matchLabels:
      app: kubia
  template:
    metadata:
      labels:
        app: kubia
    spec:
      containers:
      - name: kubia
        image: rkube/kubia
        ports:
        - containerPort: 8080
`;

/**
 * Returns the view that creates objects.
 *
 * @returns {HTMLElement}
 */
export function createView() {
  const wanted = route.peek().query.get('kind') ?? '';
  const [group = '', name = ''] = wanted.split('/');
  const kind = wanted ? findKind(group === 'core' ? '' : group, name) : undefined;
  const start =
    kind && kind.name !== 'deployments'
      ? write({
          apiVersion: kind.group ? `${kind.group}/${kind.version}` : kind.version,
          kind: kind.kind,
          metadata: { name: 'example', ...(kind.namespaced ? { namespace: namespace.peek() || 'default' } : {}) },
          ...(/^(ConfigMap|Secret)$/.test(kind.kind) ? { data: {} } : /^(Namespace|ServiceAccount)$/.test(kind.kind) ? {} : { spec: {} }),
        })
      : EXAMPLE;
  const source = editor(start);
  const run = async () => {
    const found = await documents(source).catch((/** @type {Error} */ error) => {
      note(error.message, 'bad');
      return null;
    });
    if (!found?.length) return;
    try {
      const plans = [];
      for (const o of found) plans.push(await plan(o, found));
      review(plans);
    } catch (error) {
      note(/** @type {Error} */ (error).message, 'bad');
    }
  };
  return h(
    'section.view',
    { 'aria-label': 'Create' },
    h(
      'header.bar',
      null,
      h('h1', null, 'Create from YAML'),
      h('div.spring'),
      h('span.dim', null, 'Several documents are separated by ---'),
      h('button.primary', { onclick: () => void run() }, 'Review and create'),
    ),
    h(
      'div.fill',
      {
        onkeydown: (/** @type {KeyboardEvent} */ event) => {
          if (event.key === 'Enter' && (event.ctrlKey || event.metaKey)) {
            event.preventDefault();
            void run();
          }
        },
      },
      source.element,
    ),
  );
}

/**
 * @typedef {object} Plan
 * @property {Obj} object
 * @property {Kind} kind
 * @property {string} target
 * @property {string} method
 * @property {string} before
 * @property {string} after
 * @property {string[]} warnings
 */

/**
 * Applies an object as a dry run.
 *
 * @param {Obj} o
 * @param {Obj[]} all
 * @returns {Promise<Plan>}
 */
async function plan(o, all) {
  const kind = kindOf(o.apiVersion ?? '', o.kind ?? '');
  if (!kind) throw new Error(`The API server does not serve ${o.kind} of ${o.apiVersion}`);
  if (kind.namespaced && !o.metadata.namespace) o.metadata.namespace = namespace.peek() || 'default';
  const ns = o.metadata.namespace;
  /** @type {string[]} */
  const warnings = [];
  /** @param {string} text */
  const warn = (text) => warnings.push(text);
  if (!o.metadata.name) {
    const target = path(kind, ns);
    const dry = await api(`${target}?dryRun=All&${FIELD_MANAGER}`, { method: 'POST', body: o, warn });
    return { object: o, kind, target, method: 'POST', before: '', after: comparable(dry), warnings };
  }
  const target = path(kind, ns, o.metadata.name);
  const present = await find(kind, ns, o.metadata.name);
  const before = present ? comparable(present) : '';
  /** @type {string} */
  let after;
  try {
    after = comparable(await api(`${target}?dryRun=All&${FIELD_MANAGER}`, { method: 'PATCH', body: o, type: 'application/apply-patch+yaml', warn }));
  } catch (error) {
    // A dry run does not create what a later document needs.
    const coming = all.some((other) => other !== o && ((other.kind === 'Namespace' && other.metadata.name === ns) || other.kind === 'CustomResourceDefinition'));
    if (!coming) throw error;
    after = write(o);
    warnings.push('Could not be tried before the other objects exist.');
  }
  return { object: o, kind, target, method: 'PATCH', before, after, warnings };
}

/** @param {Plan[]} plans */
function review(plans) {
  dialog(
    'Review',
    (close) => [
      plans.map((p) => {
        const changes = view(p.before, p.after);
        return [
          h('h3', null, `${p.kind.kind} ${p.object.metadata.name ?? p.object.metadata.generateName} `, h('span.badge.idle', null, p.before ? (changes.changed ? 'changes' : 'unchanged') : 'new')),
          p.warnings.map((w) => h('p.warning', null, w)),
          changes.changed ? changes.element : null,
        ];
      }),
      h(
        'div.buttons',
        null,
        h('button', { onclick: close }, 'Back'),
        h(
          'button.primary',
          {
            autofocus: true,
            onclick: async () => {
              /** @type {Obj | null} */
              let last = null;
              const done = await attempt(plans.length === 1 ? 'Created' : `${plans.length} objects applied`, async () => {
                for (const p of plans) {
                  last = await api(`${p.target}?${FIELD_MANAGER}`, {
                    method: p.method,
                    body: p.object,
                    type: p.method === 'PATCH' ? 'application/apply-patch+yaml' : 'application/json',
                  });
                }
              });
              const first = plans[0];
              if (!done || !first) return;
              close();
              go(plans.length === 1 && last ? objectLink(first.kind, /** @type {Obj} */ (last).metadata) : link('overview'));
            },
          },
          'Create',
        ),
      ),
    ],
    true,
  );
}
