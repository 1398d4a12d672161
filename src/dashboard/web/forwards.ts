/** Port-forwards: the dashboard's server opens a local port. */
import { api, serverPort, type Any, type Obj } from './api.js';
import { h, onDispose, signal } from './dom.js';
import { icon } from './icons.js';
import { attempt, note } from './ui.js';

interface Forward {
  id: number;
  namespace: string;
  pod: string;
  port: number;
  local: number;
}

/**
 * The link of a local port. It names the loopback as the page does not: cookies
 * do not keep ports apart, and what runs in a pod must not get the page's.
 */
export const forwardLink = (port: number): string =>
  `http://${location.hostname === 'localhost' ? '127.0.0.1' : 'localhost'}:${port}/`;

export function forwardsPane(pod: () => Obj): HTMLElement {
  const { namespace = '', name } = pod().metadata;
  const open = signal<Forward[]>([]);
  let gone = false;
  onDispose(() => (gone = true));
  const load = async () => {
    const all: Forward[] = await api('/rkube/forwards');
    if (!gone) open.value = all.filter((f) => f.namespace === namespace && f.pod === name);
  };
  void load().catch((error: Error) => note(error.message, 'bad'));
  const add = (port: number) =>
    attempt('', async () => {
      await api('/rkube/forwards', { method: 'POST', body: { namespace, pod: name, port } });
      await load();
    });
  const remove = (id: number) =>
    attempt('', async () => {
      await api(`/rkube/forwards/${id}`, { method: 'DELETE' });
      await load();
    });
  const declared = (pod().spec?.containers ?? []).flatMap((c: Any) => (c.ports ?? []).map((p: Any) => ({ port: p.containerPort as number, name: (p.name ?? '') as string })));
  const other = h('input', { type: 'number', min: 1, max: 65535, placeholder: 'Port', 'aria-label': 'Port', required: true }) as HTMLInputElement;
  const row = (port: number, label: string) => () => {
    const forward = open.value.find((f) => f.port === port);
    return h(
      'li',
      null,
      h('b', null, String(port)),
      h('span.dim', null, label),
      forward
        ? [
            h('a', { href: forwardLink(forward.local), target: '_blank', rel: 'noopener noreferrer' }, icon('link', 14), ` ${forwardLink(forward.local)}`),
            h('button', { onclick: () => void remove(forward.id) }, 'Close'),
          ]
        : h('button', { onclick: () => void add(port) }, 'Forward'),
    );
  };
  return h(
    'section',
    null,
    h('h2', null, 'Ports'),
    h('ul.rowsimple.forwards', null, declared.map((p: { port: number; name: string }) => row(p.port, p.name)), () =>
      open.value.filter((f) => !declared.some((p: { port: number }) => p.port === f.port)).map((f) => row(f.port, '')()),
    ),
    () => {
      const [first] = open.value;
      // The page came through a forwarded port, and through that one alone.
      if (!first || Number(location.port || 80) === serverPort.value) return null;
      return h('p.warning', null, 'This page comes from another machine, and so do these ports. Forward them as well: ', h('code', null, `ssh ${open.value.map((f) => `-L ${f.local}:127.0.0.1:${f.local}`).join(' ')} HOST`));
    },
    h(
      'form.inlineform',
      {
        onsubmit: (event: Event) => {
          event.preventDefault();
          if (other.value) void add(Number(other.value));
        },
      },
      other,
      h('button', { type: 'submit' }, 'Forward another port'),
    ),
  );
}
