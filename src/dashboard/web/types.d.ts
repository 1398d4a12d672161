/** Types that modules of the page share. */
import type { ApiError } from './api.js';

/* api.js */

export interface Meta {
  name: string;
  namespace?: string;
  uid?: string;
  resourceVersion?: string;
  generation?: number;
  creationTimestamp?: string;
  deletionTimestamp?: string;
  labels?: Record<string, string>;
  annotations?: Record<string, string>;
  ownerReferences?: Owner[];
  finalizers?: string[];
  managedFields?: unknown;
  generateName?: string;
}

export interface Owner {
  apiVersion: string;
  kind: string;
  name: string;
  uid: string;
  controller?: boolean;
}

/** Objects of any kind, whose fields views check themselves. */
export type Any = any;

export interface Obj {
  apiVersion?: string;
  kind?: string;
  metadata: Meta;
  spec?: Any;
  status?: Any;
  [field: string]: Any;
}

/** A resource that the API server serves. */
export interface Kind {
  group: string;
  version: string;
  kind: string;
  name: string;
  namespaced: boolean;
  verbs: string[];
  short: string[];
  subresources: string[];
}

export interface Sending {
  method?: string;
  body?: unknown;
  type?: string;
  accept?: string;
  /** Receives a warning of the server. */
  warn?: (text: string) => void;
}

/* diff.js */

export interface Line {
  sign: ' ' | '+' | '-';
  text: string;
}

/* dom.js */

/** A value that effects can read, and not set. */
export interface Readable<T> {
  readonly value: T;
  /** Reads the value without depending on it. */
  peek(): T;
}

/** A value that effects depend on by reading it. */
export interface Signal<T> {
  value: T;
  /** Reads without depending on it. */
  peek(): T;
}

export type Child = Node | string | number | null | undefined | false | Child[] | (() => Child);

export type Value = string | number | boolean | null | undefined;

export type Props = Record<string, Value | (() => Value) | ((event: never) => unknown)>;

/* editor.js */

export interface Editor {
  element: HTMLElement;
  text(): string;
  replace(text: string): void;
  /** Points at a line, counted from 1. */
  mark(line: number): void;
}

/* metrics.js */

export interface Sample {
  time: number;
  /** Cores; NaN for the first sample. */
  cpu: number;
  /** Bytes. */
  memory: number;
}

/* overview.js */

/** The fields of a pod that views need. There may be thousands, so that they are few. */
export interface SlimPod extends Obj {
  node: string;
  phase: string;
  problem: string;
  cpu: number;
  memory: number;
  ready: boolean;
}

/* route.js */

export interface Route {
  view: string;
  parts: string[];
  query: URLSearchParams;
}

/* schema.js */

export interface Field {
  name: string;
  type: string;
  description: string;
  required: boolean;
}

export interface Place {
  /** Field names from the top; `-` steps into a list. */
  path: string[];
  /** The typed part of a name, or of the value of `key`. */
  typed: string;
  key: string | null;
  /** Names of the same mapping. */
  beside: string[];
}

/* streams.js */

export interface Handlers {
  opened?(): void;
  data(bytes: Uint8Array): void;
  /** Called at the end, with an error if the stream was refused or broke. */
  ended(error?: ApiError): void;
}

/* ui.js */

export interface Dialog {
  element: HTMLDialogElement;
  close(): void;
}

export interface Tab {
  id: string;
  label: string;
  build(): Child;
}

/* vt.js */

export interface Style {
  fg: number | string;
  bg: number | string;
  flags: number;
}

export interface Cell {
  text: string;
  style: Style;
}

/* watch.js */

export type Phase = 'loading' | 'live' | 'behind' | 'failed';

export interface Scope {
  namespace?: string | undefined;
  labels?: string | undefined;
  fields?: string | undefined;
}

export interface Column {
  name: string;
  type: string;
  format: string;
  priority: number;
  description: string;
}

/** A column that a list shows, with its number among the table's columns. */
export interface ShownColumn {
  column: Column;
  index: number;
}

/** The order of a list: `by` is a column's number, or negative for an order by name. */
export interface Sort {
  by: number;
  down: boolean;
}

export interface Row {
  key: string;
  meta: Meta;
  cells: Any[];
  /** Grows with every change, which shows whether a drawn row is current. */
  version: number;
}

/** The change of a row. */
export type Change = 'new' | 'changed' | 'gone';

/* yaml.js */

export interface Token {
  kind: 'key' | 'string' | 'number' | 'word' | 'comment' | 'mark' | '';
  text: string;
}
