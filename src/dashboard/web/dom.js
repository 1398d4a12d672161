/**
 * A small reactive layer over the DOM: signals, effects with owners, elements.
 *
 * Strings become text nodes and attribute values, never markup. Names and log lines
 * of a cluster can thus not inject any.
 */
/** @import { Child, Props, Readable, Signal, Value } from './types.d.ts' */

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
  // An effect that sets a signal that it reads must not block the page.
  for (let round = 0; dirty.size && round < 50; round++) {
    const batch = [...dirty];
    dirty.clear();
    for (const effect of batch) {
      if (effect.dead) continue;
      try {
        effect.run();
      } catch (error) {
        // An error in one view must not affect the others.
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
 * Returns a signal that is computed from others.
 *
 * @template T
 * @param {() => T} fn
 * @returns {Readable<T>}
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
 * Calls `fn` when the effect or root that is running is disposed of.
 *
 * @param {Dispose} fn
 */
export function onDispose(fn) {
  owner?.push(fn);
}

/**
 * Runs `fn` without making the current effect depend on the signals that it reads.
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
 * Runs `fn` outside of any effect, and returns its result and a function that disposes
 * of the effects that it started.
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
 * Creates an element: `h('button.primary', { onclick }, 'Apply')`.
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
 * Creates an SVG element.
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
 * Adds children. Functions are called again when signals that they read change.
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
    // Old nodes are removed first: one may be among the new ones.
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
 * Returns a function that calls `fn` at most once per frame and at most once per `pause`
 * milliseconds, or once per second while the page is hidden.
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
 * Gives `parent` exactly these children in this order. Elements that stay are not moved.
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
