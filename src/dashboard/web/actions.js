/** Actions on objects, by kind. */
import { api, ApiError, core, find, merge, need, path } from './api.js';
import { h, signal } from './dom.js';
import { view } from './diff.js';
import { plural } from './format.js';
import { go, listLink, objectLink } from './route.js';
import { action, ageOf, ask, attempt, confirm, dialog, note } from './ui.js';
import { write } from './yaml.js';
/** @import { Any, Child, Kind, Obj, Signal } from './types.d.ts' */

/**
 * Returns the buttons of an object's actions; `o` returns its current state.
 *
 * @param {Kind} kind
 * @param {() => Obj} o
 * @returns {Child[]}
 */
export function actions(kind, o) {
  /** @type {Child[]} */
  const out = [];
  const name = o().metadata.name;
  /** @param {string} verb */
  const can = (verb) => kind.verbs.includes(verb);
  if (kind.subresources.includes('scale') && can('patch')) {
    out.push(action('scale', 'Scale', () => scale(kind, o())));
  }
  if (kind.group === 'apps' && /^(deployments|statefulsets|daemonsets)$/.test(kind.name)) {
    out.push(action('restart', 'Restart', () => restart(kind, o())));
    out.push(action('undo', 'Roll back', () => void history(kind, o())));
  }
  if (kind.group === 'apps' && kind.name === 'deployments') {
    out.push(() => {
      const paused = Boolean(o().spec?.paused);
      return action(paused ? 'play' : 'pause', paused ? 'Resume rollout' : 'Pause rollout', () =>
        void attempt(paused ? 'Rollout resumed' : 'Rollout paused', () => merge(kind, o(), { spec: { paused: paused ? null : true } })),
      );
    });
  }
  if (kind.group === 'batch' && kind.name === 'cronjobs') {
    out.push(action('play', 'Run now', () => void runNow(o())));
    out.push(suspend(kind, o));
  }
  if (kind.group === 'batch' && kind.name === 'jobs') {
    out.push(action('play', 'Run again', () => void again(kind, o())));
    out.push(suspend(kind, o));
  }
  if (!kind.group && kind.name === 'nodes') {
    out.push(() => {
      const off = Boolean(o().spec?.unschedulable);
      return action(off ? 'play' : 'pause', off ? 'Uncordon' : 'Cordon', () =>
        void attempt(off ? `${name} takes pods again` : `${name} takes no new pods`, () => merge(kind, o(), { spec: { unschedulable: off ? null : true } })),
      );
    });
    out.push(action('down2', 'Drain', () => drain(kind, o())));
  }
  if (can('delete')) out.push(action('trash', 'Delete', () => remove(kind, o()), 'quiet-danger'));
  return out;
}

/**
 * @param {Kind} kind
 * @param {Obj} o
 */
function scale(kind, o) {
  ask(`Scale ${o.metadata.name}`, 'Replicas', String(o.spec?.replicas ?? 1), 'Scale', (value) =>
    attempt(`Scaled to ${value}`, () => merge(kind, o, { spec: { replicas: Number(value) } }, 'scale')), 'number');
}

/**
 * @param {Kind} kind
 * @param {Obj} o
 */
function restart(kind, o) {
  confirm(`Restart ${o.metadata.name}`, 'Its pods are replaced one after another.', 'Restart', false, () =>
    attempt('Restart under way', () =>
      merge(kind, o, { spec: { template: { metadata: { annotations: { 'kubectl.kubernetes.io/restartedAt': new Date().toISOString() } } } } }),
    ),
  );
}

/**
 * @param {Kind} kind
 * @param {() => Obj} o
 * @returns {Child}
 */
function suspend(kind, o) {
  return () => {
    const off = Boolean(o().spec?.suspend);
    return action(off ? 'play' : 'pause', off ? 'Resume' : 'Suspend', () =>
      void attempt(off ? 'Resumed' : 'Suspended', () => merge(kind, o(), { spec: { suspend: !off } })),
    );
  };
}

/** @returns {string} */
const suffix = () => Date.now().toString(36);

/**
 * @param {Obj} o
 * @returns {Promise<void>}
 */
async function runNow(o) {
  const jobs = need('batch', 'jobs');
  const template = o.spec?.jobTemplate ?? {};
  const job = {
    apiVersion: 'batch/v1',
    kind: 'Job',
    metadata: {
      name: `${o.metadata.name.slice(0, 40)}-${suffix()}`,
      namespace: o.metadata.namespace,
      labels: template.metadata?.labels,
      annotations: { ...template.metadata?.annotations, 'cronjob.kubernetes.io/instantiate': 'manual' },
      ownerReferences: [{ apiVersion: 'batch/v1', kind: 'CronJob', name: o.metadata.name, uid: o.metadata.uid, controller: true }],
    },
    spec: template.spec,
  };
  await attempt('Job started', async () => {
    const made = await api(path(jobs, o.metadata.namespace), { method: 'POST', body: job });
    go(objectLink(jobs, made.metadata));
  });
}

/**
 * @param {Kind} kind
 * @param {Obj} o
 * @returns {Promise<void>}
 */
async function again(kind, o) {
  const spec = structuredClone(o.spec ?? {});
  delete spec.selector;
  delete spec.manualSelector;
  for (const label of ['controller-uid', 'job-name', 'batch.kubernetes.io/controller-uid', 'batch.kubernetes.io/job-name']) {
    delete spec.template?.metadata?.labels?.[label];
  }
  const job = {
    apiVersion: 'batch/v1',
    kind: 'Job',
    metadata: { name: `${o.metadata.name.slice(0, 40)}-${suffix()}`, namespace: o.metadata.namespace },
    spec: { ...spec, suspend: undefined },
  };
  await attempt('Job started', async () => {
    const made = await api(path(kind, o.metadata.namespace), { method: 'POST', body: job });
    go(objectLink(kind, made.metadata));
  });
}

/**
 * @param {Kind} kind
 * @param {Obj} o
 */
function remove(kind, o) {
  dialog(`Delete ${kind.kind} ${o.metadata.name}`, (close) => {
    const policy = /** @type {HTMLSelectElement} */ (h(
      'select',
      { 'aria-label': 'What it owns' },
      h('option', { value: 'Background' }, 'Delete what it owns afterwards'),
      h('option', { value: 'Foreground' }, 'Delete what it owns first'),
      h('option', { value: 'Orphan' }, 'Leave what it owns'),
    ));
    const now = /** @type {HTMLInputElement} */ (h('input', { type: 'checkbox' }));
    const run = async () => {
      /** @type {Any} */
      const body = {
        apiVersion: 'v1',
        kind: 'DeleteOptions',
        propagationPolicy: policy.value,
        preconditions: { uid: o.metadata.uid },
      };
      if (now.checked) body.gracePeriodSeconds = 0;
      const done = await attempt(`${o.metadata.name} is being deleted`, () =>
        api(path(kind, o.metadata.namespace, o.metadata.name), { method: 'DELETE', body }),
      );
      if (done) {
        close();
        go(listLink(kind));
      }
    };
    return [
      h('label', null, 'What it owns', policy),
      kind.name === 'pods' ? h('label.check', null, now, 'Without waiting for it to end') : null,
      h('div.buttons', null, h('button', { onclick: close, autofocus: true }, 'Cancel'), h('button.danger', { onclick: () => void run() }, 'Delete')),
    ];
  });
}

/**
 * @typedef {object} Revision
 * @property {number} number
 * @property {string | undefined} made
 * @property {Any} template
 * @property {boolean} present
 * @property {Any} patch
 */

/**
 * Returns the earlier revisions of a workload's template.
 *
 * @param {Kind} kind
 * @param {Obj} o
 * @returns {Promise<Revision[]>}
 */
async function revisions(kind, o) {
  /** @param {Obj} x */
  const mine = (x) => (x.metadata.ownerReferences ?? []).some((r) => r.uid === o.metadata.uid);
  /** @type {Revision[]} */
  const found = [];
  if (kind.name === 'deployments') {
    const sets = await api(path(need('apps', 'replicasets'), o.metadata.namespace));
    for (const set of /** @type {Obj[]} */ (sets.items).filter(mine)) {
      const template = structuredClone(set.spec.template);
      delete template.metadata?.labels?.['pod-template-hash'];
      const number = Number(set.metadata.annotations?.['deployment.kubernetes.io/revision'] ?? 0);
      found.push({ number, made: set.metadata.creationTimestamp, template, present: false, patch: [{ op: 'replace', path: '/spec/template', value: template }] });
    }
  } else {
    const all = await api(path(need('apps', 'controllerrevisions'), o.metadata.namespace));
    for (const revision of /** @type {Obj[]} */ (all.items).filter(mine)) {
      const template = structuredClone(revision['data']?.spec?.template ?? {});
      delete template.$patch;
      found.push({ number: revision['revision'], made: revision.metadata.creationTimestamp, template, present: false, patch: [{ op: 'replace', path: '/spec/template', value: template }] });
    }
  }
  found.sort((a, b) => b.number - a.number);
  if (found[0]) found[0].present = true;
  return found;
}

/**
 * @param {Kind} kind
 * @param {Obj} o
 * @returns {Promise<void>}
 */
async function history(kind, o) {
  /** @type {Revision[]} */
  let all;
  try {
    all = await revisions(kind, o);
  } catch (error) {
    note(/** @type {Error} */ (error).message, 'bad');
    return;
  }
  const present = all[0];
  if (!present) {
    note('There are no revisions yet');
    return;
  }
  const chosen = signal(all[1] ?? present);
  dialog(
    `Revisions of ${o.metadata.name}`,
    (close) => [
      h(
        'div.revisions',
        { role: 'radiogroup', 'aria-label': 'Revision' },
        all.map((r) =>
          h(
            'label.check',
            null,
            h('input', { type: 'radio', name: 'revision', checked: r === chosen.peek(), onchange: () => (chosen.value = r) }),
            h('b', null, `#${r.number}`),
            ageOf(r.made),
            r.present ? h('span.badge.good', null, 'present') : null,
            h('span.dim', null, (r.template?.spec?.containers ?? []).map((/** @type {Any} */ c) => c.image).join(', ')),
          ),
        ),
      ),
      () => {
        const changes = view(write(present.template), write(chosen.value.template));
        return changes.changed ? changes.element : h('p.dim', null, 'This is the present template.');
      },
      h(
        'div.buttons',
        null,
        h('button', { onclick: close }, 'Cancel'),
        h(
          'button.primary',
          {
            disabled: () => chosen.value.present,
            onclick: async () => {
              const target = path(kind, o.metadata.namespace, o.metadata.name);
              const done = await attempt(`Rolling back to #${chosen.peek().number}`, () =>
                api(`${target}?fieldManager=rkube-dashboard`, { method: 'PATCH', body: chosen.peek().patch, type: 'application/json-patch+json' }),
              );
              if (done) close();
            },
          },
          'Roll back',
        ),
      ),
    ],
    true,
  );
}

/**
 * @typedef {object} Leaving
 * @property {string} name
 * @property {string} state
 */

/**
 * Drains a node and shows the progress.
 *
 * @param {Kind} kind
 * @param {Obj} o
 */
function drain(kind, o) {
  const node = o.metadata.name;
  /** @type {Signal<Map<string, Leaving>>} */
  const state = signal(new Map());
  const running = signal(false);
  const done = signal('');
  let stopped = false;
  const local = /** @type {HTMLInputElement} */ (h('input', { type: 'checkbox', checked: true }));
  /** @param {number} ms */
  const wait = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
  /**
   * @param {string} key
   * @param {string} name
   * @param {string} text
   */
  const tell = (key, name, text) => {
    state.value = new Map(state.peek()).set(key, { name, state: text });
  };

  /**
   * @param {Obj} pod
   * @returns {Promise<void>}
   */
  const leave = async (pod) => {
    const key = `${pod.metadata.namespace}/${pod.metadata.name}`;
    const target = path(core('pods'), pod.metadata.namespace, pod.metadata.name);
    for (let pause = 1000; !stopped; pause = Math.min(pause * 1.5, 10_000)) {
      try {
        await api(`${target}/eviction`, {
          method: 'POST',
          body: { apiVersion: 'policy/v1', kind: 'Eviction', metadata: { name: pod.metadata.name, namespace: pod.metadata.namespace } },
        });
        break;
      } catch (error) {
        if (error instanceof ApiError && error.status === 404) break;
        if (!(error instanceof ApiError) || error.status !== 429) {
          tell(key, key, /** @type {Error} */ (error).message);
          throw error;
        }
        tell(key, key, 'waits: a disruption budget holds it');
        await wait(pause);
      }
    }
    tell(key, key, 'ending');
    for (let pause = 250; !stopped; pause = Math.min(pause * 1.5, 2000)) {
      const present = await find(core('pods'), pod.metadata.namespace, pod.metadata.name);
      if (present?.metadata.uid !== pod.metadata.uid) break;
      await wait(pause);
    }
    if (!stopped) tell(key, key, 'gone');
  };

  const run = async () => {
    running.value = true;
    try {
      await merge(kind, o, { spec: { unschedulable: true } });
      const pods = await api(`${path(core('pods'))}?fieldSelector=spec.nodeName%3D${encodeURIComponent(node)}`);
      const going = /** @type {Obj[]} */ (pods.items).filter((p) => {
        if (p.metadata.annotations?.['kubernetes.io/config.mirror']) return false;
        if ((p.metadata.ownerReferences ?? []).some((r) => r.kind === 'DaemonSet' && r.controller)) return false;
        return local.checked || !(p.spec?.volumes ?? []).some((/** @type {Any} */ v) => v.emptyDir);
      });
      for (const p of going) {
        const key = `${p.metadata.namespace}/${p.metadata.name}`;
        tell(key, key, 'asked to leave');
      }
      const results = await Promise.allSettled(going.map(leave));
      const failed = results.filter((r) => r.status === 'rejected').length;
      done.value = stopped ? 'Stopped' : failed ? `${plural(failed, 'pod')} could not be moved` : `${node} is drained`;
    } catch (error) {
      done.value = /** @type {Error} */ (error).message;
    }
    running.value = false;
  };
  const shown = dialog(
    `Drain ${node}`,
    (close) => [
      h('p', null, 'The node takes no new pods, and its pods are moved elsewhere. Pods of daemon sets stay.'),
      h('label.check', null, local, 'Also pods with emptyDir volumes, whose data is lost'),
      h('div.progress', { 'aria-live': 'polite' }, () => {
        const all = [...state.value.values()];
        if (!all.length) return null;
        const gone = all.filter((l) => l.state === 'gone').length;
        return [
          h('progress', { max: all.length, value: gone, 'aria-label': 'Drained' }),
          h('p', null, `${gone} of ${plural(all.length, 'pod')} gone`),
          h('ul.plain', null, all.filter((l) => l.state !== 'gone').map((l) => h('li', null, l.name, ' ', h('span.dim', null, l.state)))),
        ];
      }),
      () => (done.value ? h('p', { role: 'status' }, h('b', null, done.value)) : null),
      h(
        'div.buttons',
        null,
        h('button', { onclick: close }, () => (done.value ? 'Close' : 'Cancel')),
        () => (done.value ? null : h('button.primary', { disabled: () => running.value, onclick: () => void run() }, 'Drain')),
      ),
    ],
  );
  shown.element.addEventListener('close', () => (stopped = true));
}
