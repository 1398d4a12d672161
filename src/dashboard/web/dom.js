/**
 * A small reactive layer over the DOM: signals, effects with owners, elements.
 *
 * Strings become text nodes and attribute values, never markup, so that no name
 * or log line of a cluster can be anything but text.
 */
/** @import { Child, Props, Signal, Value } from './types.d.ts' */

/** @typedef {() => void} Dispose */

/**
 * @typedef {object} Effect
 * @property {() => void} run
 * @property {Set<Set<Effect>>} sources
 * @property {Dispose[]} children
 * @property {boolean} dead
 */

/** @type {Effect | null} */
let current = null;

/** @type {Dispose[] | null} */
let owner = null;

/** @type {Set<Effect>} */
const dirty = new Set();
let flushing = false;

/**
 * @template T
 * @param {T} initial
 * @returns {Signal<T>}
 */
export function signal(initial) {
  let value = initial;
  /** @type {Set<Effect>} */
  const readers = new Set();
  return {
    get value() {
      if (current) {
        readers.add(current);
        current.sources.add(readers);
      }
      return value;
    },
    set value(/** @type {T} */ next) {
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

function flush() {
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

/** @param {Effect} effect */
function clean(effect) {
  for (const source of effect.sources) source.delete(effect);
  effect.sources.clear();
  for (const dispose of effect.children.splice(0)) dispose();
}

/**
 * Runs `fn` now and whenever a signal that it read changes.
 *
 * @param {() => void} fn
 * @returns {Dispose}
 */
export function effect(fn) {
  /** @type {Effect} */
  const self = {
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

/**
 * A signal computed from others.
 *
 * @template T
 * @param {() => T} fn
 * @returns {{ readonly value: T; peek(): T }}
 */
export function computed(fn) {
  /** @type {Signal<T>} */
  const out = signal(/** @type {T} */ (undefined));
  effect(() => {
    out.value = fn();
  });
  return out;
}

/**
 * Calls `fn` when what is being built is taken away.
 *
 * @param {Dispose} fn
 */
export function onDispose(fn) {
  owner?.push(fn);
}

/**
 * Runs `fn` without making the caller depend on what it reads.
 *
 * @template T
 * @param {() => T} fn
 * @returns {T}
 */
export function untracked(fn) {
  const outer = current;
  current = null;
  try {
    return fn();
  } finally {
    current = outer;
  }
}

/**
 * Builds something that is taken away by the returned function.
 *
 * @template T
 * @param {() => T} fn
 * @returns {[T, Dispose]}
 */
export function root(fn) {
  const outer = owner;
  const outerEffect = current;
  /** @type {Dispose[]} */
  const mine = [];
  owner = mine;
  current = null;
  try {
    return [fn(), () => mine.splice(0).forEach((d) => d())];
  } finally {
    owner = outer;
    current = outerEffect;
  }
}

/**
 * Makes an element: `h('button.primary', { onclick }, 'Apply')`.
 *
 * @param {string} tag
 * @param {Props | null} [props]
 * @param {...Child} children
 * @returns {HTMLElement}
 */
export function h(tag, props, ...children) {
  const [name, ...classes] = tag.split('.');
  const element = document.createElement(name || 'div');
  if (classes.length) element.className = classes.join(' ');
  if (props) apply(element, props);
  append(element, children);
  return element;
}

/**
 * Makes an SVG element.
 *
 * @param {string} tag
 * @param {Props | null} [props]
 * @param {...Child} children
 * @returns {SVGElement}
 */
export function svg(tag, props, ...children) {
  const element = document.createElementNS('http://www.w3.org/2000/svg', tag);
  if (props) apply(element, props);
  append(element, children);
  return element;
}

/**
 * @param {Element} element
 * @param {Props} props
 */
function apply(element, props) {
  for (const [name, value] of Object.entries(props)) {
    if (name.startsWith('on')) {
      if (value) element.addEventListener(name.slice(2), /** @type {EventListener} */ (value));
    } else if (typeof value === 'function') {
      effect(() => set(element, name, /** @type {() => Value} */ (value)()));
    } else {
      set(element, name, value);
    }
  }
}

/**
 * Sets an attribute, or a property where the attribute is only its default.
 *
 * @param {Element} element
 * @param {string} name
 * @param {Value} value
 */
export function set(element, name, value) {
  if (name === 'value' || name === 'checked' || name === 'disabled' || name === 'indeterminate') {
    /** @type {Record<string, unknown>} */ (/** @type {unknown} */ (element))[name] = value ?? '';
  } else if (name === 'class') {
    element.setAttribute('class', String(value ?? ''));
  } else if (value === false || value === null || value === undefined) {
    element.removeAttribute(name);
  } else {
    element.setAttribute(name, value === true ? '' : String(value));
  }
}

/**
 * Adds children; functions are computed again when their signals change.
 *
 * @param {Node} parent
 * @param {Child[]} children
 */
export function append(parent, children) {
  for (const child of children) {
    if (child === null || child === undefined || child === false) continue;
    if (Array.isArray(child)) append(parent, child);
    else if (child instanceof Node) parent.appendChild(child);
    else if (typeof child === 'function') dynamic(parent, child);
    else parent.appendChild(document.createTextNode(String(child)));
  }
}

/**
 * @param {Node} parent
 * @param {() => Child} child
 */
function dynamic(parent, child) {
  const anchor = document.createComment('');
  parent.appendChild(anchor);
  /** @type {ChildNode[]} */
  let nodes = [];
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

/**
 * Replaces an element's children.
 *
 * @param {Element} element
 * @param {...Child} children
 */
export function fill(element, ...children) {
  element.replaceChildren();
  append(element, children);
}

/**
 * Calls once a frame however often it is asked, or once in `pause` milliseconds;
 * slowly while nobody looks.
 *
 * @param {() => void} fn
 * @param {() => number} [pause]
 * @returns {() => void}
 */
export function perFrame(fn, pause = () => 0) {
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

/**
 * Removes and adds so that `parent` has just these children in this order.
 *
 * @param {Element} parent
 * @param {Element[]} wanted
 */
export function reconcile(parent, wanted) {
  /** @type {Set<Element>} */
  const keep = new Set(wanted);
  for (const child of [...parent.children]) if (!keep.has(child)) child.remove();
  let at = parent.firstElementChild;
  for (const element of wanted) {
    if (element === at) at = at.nextElementSibling;
    else parent.insertBefore(element, at);
  }
}
