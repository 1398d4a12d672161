/** The part of a browser that the modules use, as far as the suites need it. */

class FakeNode {
  parentNode = null;
  childNodes = [];

  get children() {
    return this.childNodes.filter((n) => n instanceof FakeElement);
  }

  get childElementCount() {
    return this.children.length;
  }

  get firstElementChild() {
    return this.children[0] ?? null;
  }

  get nextElementSibling() {
    const siblings = this.parentNode?.children ?? [];
    return siblings[siblings.indexOf(this) + 1] ?? null;
  }

  get textContent() {
    return this.childNodes.map((n) => n.textContent).join('');
  }

  set textContent(text) {
    this.replaceChildren(text);
  }

  remove() {
    const parent = this.parentNode;
    if (parent) parent.childNodes.splice(parent.childNodes.indexOf(this), 1);
    this.parentNode = null;
  }

  insertBefore(child, before) {
    const added = child instanceof FakeFragment ? [...child.childNodes] : [child];
    for (const node of added) {
      node.remove();
      const at = before ? this.childNodes.indexOf(before) : this.childNodes.length;
      this.childNodes.splice(at, 0, node);
      node.parentNode = this;
    }
    return child;
  }

  appendChild(child) {
    return this.insertBefore(child, null);
  }

  append(...children) {
    for (const child of children) this.appendChild(child instanceof FakeNode ? child : new FakeText(child));
  }

  replaceChildren(...children) {
    for (const child of [...this.childNodes]) child.remove();
    this.append(...children);
  }
}

class FakeFragment extends FakeNode {}

class FakeText extends FakeNode {
  #text;

  constructor(text) {
    super();
    this.#text = String(text);
  }

  get textContent() {
    return this.#text;
  }
}

class FakeElement extends FakeNode {
  attributes = new Map();
  dataset = {};
  style = { setProperty: (name, value) => (this.style[name] = value) };
  className = '';
  hidden = false;
  scrollTop = 0;
  clientHeight = 0;
  clientWidth = 0;
  #listeners = new Map();

  constructor(name) {
    super();
    this.localName = name;
  }

  get classList() {
    return {
      toggle: (name, on) => {
        const names = new Set(this.className.split(' ').filter(Boolean));
        if (on) names.add(name);
        else names.delete(name);
        this.className = [...names].join(' ');
      },
      contains: (name) => this.className.split(' ').includes(name),
    };
  }

  setAttribute(name, value) {
    if (name === 'class') this.className = value;
    else if (name.startsWith('data-')) this.dataset[name.slice(5)] = value;
    else this.attributes.set(name, value);
  }

  getAttribute(name) {
    return this.attributes.get(name) ?? null;
  }

  removeAttribute(name) {
    this.attributes.delete(name);
  }

  addEventListener(name, listener) {
    this.#listeners.set(name, [...(this.#listeners.get(name) ?? []), listener]);
  }

  /** Calls the listeners of an event; it does not bubble. */
  fire(name, event = {}) {
    const whole = { target: this, preventDefault: () => (whole.prevented = true), ...event };
    for (const listener of this.#listeners.get(name) ?? []) listener(whole);
    return whole;
  }

  /** Returns the elements within that have a class. */
  all(name) {
    return this.children.flatMap((c) => [...(c.classList.contains(name) ? [c] : []), ...c.all(name)]);
  }
}

const stored = new Map();
const { setInterval } = globalThis;
const frames = [];

/** What the page has put into the address. */
export const location = { hash: '' };

Object.assign(globalThis, {
  Node: FakeNode,
  document: {
    hidden: false,
    body: new FakeElement('body'),
    createElement: (name) => new FakeElement(name),
    createElementNS: (_, name) => new FakeElement(name),
    createTextNode: (text) => new FakeText(text),
    createComment: () => new FakeText(''),
    createDocumentFragment: () => new FakeFragment(),
    addEventListener: () => {},
  },
  localStorage: {
    getItem: (name) => stored.get(name) ?? null,
    setItem: (name, value) => stored.set(name, value),
  },
  location,
  // A clock of the page must not keep the process alive.
  setInterval: (...given) => setInterval(...given).unref(),
  getSelection: () => null,
  requestAnimationFrame: (callback) => frames.push(callback),
  reportError: (error) => {
    throw error;
  },
  ResizeObserver: class {
    observe() {}
    disconnect() {}
  },
});

/** Lets effects and promises run that are due. */
export const settle = () => new Promise((resolve) => setImmediate(resolve));

/** Runs what waits for the next frame. */
export async function frame() {
  for (const callback of frames.splice(0)) callback(performance.now());
  await settle();
}

/** Returns numbers below `n` that are the same in every run. */
export function randomNumbers(seed = 1) {
  let state = seed;
  return (n) => {
    state = (state * 1103515245 + 12345) % 2147483648;
    return Math.floor((state / 2147483648) * n);
  };
}
