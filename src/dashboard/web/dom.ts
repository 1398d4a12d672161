/**
 * A small reactive layer over the DOM: signals, effects with owners, elements.
 *
 * Strings become text nodes and attribute values, never markup, so that no name
 * or log line of a cluster can be anything but text.
 */

type Dispose = () => void;

interface Effect {
  run(): void;
  sources: Set<Set<Effect>>;
  children: Dispose[];
  dead: boolean;
}

let current: Effect | null = null;
let owner: Dispose[] | null = null;
const dirty = new Set<Effect>();
let flushing = false;

/** A value that effects depend on by reading it. */
export interface Signal<T> {
  value: T;
  /** Reads without depending on it. */
  peek(): T;
}

export function signal<T>(initial: T): Signal<T> {
  let value = initial;
  const readers = new Set<Effect>();
  return {
    get value() {
      if (current) {
        readers.add(current);
        current.sources.add(readers);
      }
      return value;
    },
    set value(next: T) {
      if (Object.is(next, value)) return;
      value = next;
      for (const reader of readers) dirty.add(reader);
      if (!flushing && dirty.size) {
        flushing = true;
        queueMicrotask(flush);
      }
    },
    peek: () => value,
  };
}

function flush(): void {
  // An effect that sets what it reads must not hang the page.
  for (let round = 0; dirty.size && round < 50; round++) {
    const batch = [...dirty];
    dirty.clear();
    for (const effect of batch) {
      if (effect.dead) continue;
      try {
        effect.run();
      } catch (error) {
        // One view's mistake must not stop all others from being drawn.
        reportError(error);
      }
    }
  }
  flushing = false;
}

function clean(effect: Effect): void {
  for (const source of effect.sources) source.delete(effect);
  effect.sources.clear();
  for (const dispose of effect.children.splice(0)) dispose();
}

/** Runs `fn` now and whenever a signal that it read changes. */
export function effect(fn: () => void): Dispose {
  const self: Effect = {
    sources: new Set(),
    children: [],
    dead: false,
    run() {
      clean(self);
      const [outerEffect, outerOwner] = [current, owner];
      current = self;
      owner = self.children;
      try {
        fn();
      } finally {
        current = outerEffect;
        owner = outerOwner;
      }
    },
  };
  self.run();
  const dispose = () => {
    self.dead = true;
    dirty.delete(self);
    clean(self);
  };
  owner?.push(dispose);
  return dispose;
}

/** A signal computed from others. */
export function computed<T>(fn: () => T): { readonly value: T; peek(): T } {
  const out = signal<T>(undefined as T);
  effect(() => {
    out.value = fn();
  });
  return out;
}

/** Calls `fn` when what is being built is taken away. */
export function onDispose(fn: Dispose): void {
  owner?.push(fn);
}

/** Runs `fn` without making the caller depend on what it reads. */
export function untracked<T>(fn: () => T): T {
  const outer = current;
  current = null;
  try {
    return fn();
  } finally {
    current = outer;
  }
}

/** Builds something that is taken away by the returned function. */
export function root<T>(fn: () => T): [T, Dispose] {
  const outer = owner;
  const outerEffect = current;
  const mine: Dispose[] = [];
  owner = mine;
  current = null;
  try {
    return [fn(), () => mine.splice(0).forEach((d) => d())];
  } finally {
    owner = outer;
    current = outerEffect;
  }
}

export type Child = Node | string | number | null | undefined | false | Child[] | (() => Child);
type Value = string | number | boolean | null | undefined;
export type Props = Record<string, Value | (() => Value) | ((event: never) => unknown)>;

/** Makes an element: `h('button.primary', { onclick }, 'Apply')`. */
export function h(tag: string, props?: Props | null, ...children: Child[]): HTMLElement {
  const [name, ...classes] = tag.split('.');
  const element = document.createElement(name || 'div');
  if (classes.length) element.className = classes.join(' ');
  if (props) apply(element, props);
  append(element, children);
  return element;
}

/** Makes an SVG element. */
export function svg(tag: string, props?: Props | null, ...children: Child[]): SVGElement {
  const element = document.createElementNS('http://www.w3.org/2000/svg', tag);
  if (props) apply(element, props);
  append(element, children);
  return element;
}

function apply(element: Element, props: Props): void {
  for (const [name, value] of Object.entries(props)) {
    if (name.startsWith('on')) {
      if (value) element.addEventListener(name.slice(2), value as EventListener);
    } else if (typeof value === 'function') {
      effect(() => set(element, name, (value as () => Value)()));
    } else {
      set(element, name, value);
    }
  }
}

/** Sets an attribute, or a property where the attribute is only its default. */
export function set(element: Element, name: string, value: Value): void {
  if (name === 'value' || name === 'checked' || name === 'disabled' || name === 'indeterminate') {
    (element as unknown as Record<string, unknown>)[name] = value ?? '';
  } else if (name === 'class') {
    element.setAttribute('class', String(value ?? ''));
  } else if (value === false || value === null || value === undefined) {
    element.removeAttribute(name);
  } else {
    element.setAttribute(name, value === true ? '' : String(value));
  }
}

/** Adds children; functions are computed again when their signals change. */
export function append(parent: Node, children: Child[]): void {
  for (const child of children) {
    if (child === null || child === undefined || child === false) continue;
    if (Array.isArray(child)) append(parent, child);
    else if (child instanceof Node) parent.appendChild(child);
    else if (typeof child === 'function') dynamic(parent, child);
    else parent.appendChild(document.createTextNode(String(child)));
  }
}

function dynamic(parent: Node, child: () => Child): void {
  const anchor = document.createComment('');
  parent.appendChild(anchor);
  let nodes: ChildNode[] = [];
  effect(() => {
    const next = child();
    // First the old ones: a node may be among the new ones again.
    for (const node of nodes) node.remove();
    const fragment = document.createDocumentFragment();
    append(fragment, [next]);
    nodes = [...fragment.childNodes];
    anchor.parentNode?.insertBefore(fragment, anchor);
  });
}

/** Replaces an element's children. */
export function fill(element: Element, ...children: Child[]): void {
  element.replaceChildren();
  append(element, children);
}

/**
 * Calls once a frame however often it is asked, or once in `pause` milliseconds;
 * slowly while nobody looks.
 */
export function perFrame(fn: () => void, pause: () => number = () => 0): () => void {
  let asked = false;
  let last = -Infinity;
  const run = () => {
    asked = false;
    last = performance.now();
    fn();
  };
  return () => {
    if (asked) return;
    asked = true;
    const wait = document.hidden ? 1000 : last + pause() - performance.now();
    if (wait > 0) setTimeout(run, wait);
    else requestAnimationFrame(run);
  };
}

/** Removes and adds so that `parent` has just these children in this order. */
export function reconcile(parent: Element, wanted: Element[]): void {
  const keep = new Set<Element>(wanted);
  for (const child of [...parent.children]) if (!keep.has(child)) child.remove();
  let at = parent.firstElementChild;
  for (const element of wanted) {
    if (element === at) at = at.nextElementSibling;
    else parent.insertBefore(element, at);
  }
}
