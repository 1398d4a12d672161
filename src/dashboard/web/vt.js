/**
 * A terminal's screen: what the escape sequences of an xterm do to a grid of
 * cells. No DOM here.
 */
/** @import { Cell, Style } from './types.d.ts' */

export const BOLD = 1;
export const DIM = 2;
export const ITALIC = 4;
export const UNDERLINE = 8;
export const INVERSE = 16;
export const STRIKE = 32;

/** @type {Style} */
const PLAIN = { fg: -1, bg: -1, flags: 0 };

/** @type {Cell} */
const BLANK = { text: ' ', style: PLAIN };
const SCROLLBACK = 2000;

/* Characters that take two cells. */
const WIDE = /[\u1100-\u115f\u2e80-\u303e\u3041-\ua4cf\uac00-\ud7a3\uf900-\ufaff\ufe30-\ufe6f\uff00-\uff60\uffe0-\uffe6]|[\u{1f300}-\u{1faff}]|[\u{20000}-\u{3fffd}]/u;
const MARK = /^\p{M}$/u;

/** @type {Record<string, string>} */
const LINES = { j: '┘', k: '┐', l: '┌', m: '└', n: '┼', q: '─', t: '├', u: '┤', v: '┴', w: '┬', x: '│', a: '▒', '`': '◆' };

/**
 * @typedef {object} Saved
 * @property {number} row
 * @property {number} column
 * @property {Style} style
 */

export class Screen {
  /** @type {Cell[][]} */
  rows = [];
  /** @readonly @type {Cell[][]} */
  history = [];
  row = 0;
  column = 0;
  cursorShown = true;
  /** Arrow keys send application codes. */
  application = false;
  /** Pasted text is bracketed. */
  brackets = false;
  title = '';
  /**
   * What the terminal answers to questions.
   *
   * @type {(text: string) => void}
   */
  reply = () => {};
  #style = PLAIN;
  #top = 0;
  /** @type {number} */
  #bottom;
  #wrap = false;
  #autowrap = true;
  #origin = false;
  #lines = false;
  /** @type {Saved} */
  #saved = { row: 0, column: 0, style: PLAIN };
  /** @type {{ rows: Cell[][]; saved: Saved } | null} */
  #main = null;
  #rest = '';
  /** @type {Set<number>} */
  #tabs = new Set();

  /** @type {number} */
  columns;
  /** @type {number} */
  height;

  /**
   * @param {number} columns
   * @param {number} height
   */
  constructor(columns, height) {
    this.columns = columns;
    this.height = height;
    this.#bottom = height - 1;
    this.rows = Array.from({ length: height }, () => this.#blank());
    this.#resetTabs();
  }

  /** @returns {boolean} */
  get alternate() {
    return this.#main !== null;
  }

  /** @returns {Cell[]} */
  #blank() {
    const cell = this.#style.bg === -1 ? BLANK : { text: ' ', style: { fg: -1, bg: this.#style.bg, flags: 0 } };
    return Array.from({ length: this.columns }, () => cell);
  }

  #resetTabs() {
    this.#tabs.clear();
    for (let i = 8; i < 1000; i += 8) this.#tabs.add(i);
  }

  /**
   * @param {number} columns
   * @param {number} height
   */
  resize(columns, height) {
    /** @param {Cell[][]} rows */
    const fit = (rows) => {
      for (const row of rows) {
        while (row.length < columns) row.push(BLANK);
        row.length = columns;
      }
    };
    this.columns = columns;
    fit(this.rows);
    if (this.#main) fit(this.#main.rows);
    while (this.rows.length > height) {
      if (this.row < this.rows.length - 1) this.rows.pop();
      else {
        const gone = this.rows.shift();
        if (gone && !this.#main) this.#keep(gone);
        this.row--;
      }
    }
    while (this.rows.length < height) this.rows.push(this.#blank());
    if (this.#main) {
      while (this.#main.rows.length > height) this.#main.rows.pop();
      while (this.#main.rows.length < height) this.#main.rows.push(this.#blank());
    }
    this.height = height;
    this.#top = 0;
    this.#bottom = height - 1;
    this.row = Math.min(this.row, height - 1);
    this.column = Math.min(this.column, columns - 1);
  }

  /** @param {Cell[]} row */
  #keep(row) {
    this.history.push(row);
    if (this.history.length > SCROLLBACK + 200) this.history.splice(0, this.history.length - SCROLLBACK);
  }

  /** @param {string} text */
  write(text) {
    let data = this.#rest + text;
    this.#rest = '';
    for (let i = 0; i < data.length; ) {
      const code = data.charCodeAt(i);
      if (code === 0x1b) {
        const used = this.#escape(data, i);
        if (used === 0) {
          this.#rest = data.slice(i);
          // What never ends is no sequence.
          if (this.#rest.length > 4096) this.#rest = '';
          return;
        }
        i += used;
      } else if (code < 0x20 || code === 0x7f) {
        this.#control(code);
        i++;
      } else {
        const char = String.fromCodePoint(data.codePointAt(i) ?? 0xfffd);
        if (char.length === 1 && code >= 0xd800 && code < 0xdc00 && i + 1 === data.length) {
          this.#rest = char;
          return;
        }
        this.#print(char);
        i += char.length;
      }
    }
    data = '';
  }

  /** @param {number} code */
  #control(code) {
    if (code === 8) {
      this.column = Math.max(0, this.column - 1);
      this.#wrap = false;
    } else if (code === 9) {
      do this.column++;
      while (this.column < this.columns - 1 && !this.#tabs.has(this.column));
      this.column = Math.min(this.column, this.columns - 1);
    } else if (code >= 10 && code <= 12) this.#feed();
    else if (code === 13) {
      this.column = 0;
      this.#wrap = false;
    } else if (code === 14) this.#lines = true;
    else if (code === 15) this.#lines = false;
  }

  /** @param {string} raw */
  #print(raw) {
    const char = this.#lines ? (LINES[raw] ?? raw) : raw;
    if (MARK.test(char) && this.column > 0) {
      const row = /** @type {Cell[]} */ (this.rows[this.row]);
      const at = this.#wrap ? this.column : this.column - 1;
      const cell = row[at] ?? BLANK;
      row[at] = { text: cell.text + char, style: cell.style };
      return;
    }
    const wide = WIDE.test(char);
    if (this.#wrap || (wide && this.column === this.columns - 1)) {
      if (this.#autowrap) {
        this.column = 0;
        this.#feed();
      }
      this.#wrap = false;
    }
    const row = /** @type {Cell[]} */ (this.rows[this.row]);
    row[this.column] = { text: char, style: this.#style };
    if (wide && this.column + 1 < this.columns) row[++this.column] = { text: '', style: this.#style };
    if (this.column >= this.columns - 1) this.#wrap = true;
    else this.column++;
  }

  #feed() {
    this.#wrap = false;
    if (this.row === this.#bottom) this.#scroll(1);
    else if (this.row < this.height - 1) this.row++;
  }

  /** @param {number} n */
  #scroll(n) {
    for (let i = 0; i < Math.abs(n) && i <= this.#bottom - this.#top; i++) {
      if (n > 0) {
        const [gone] = this.rows.splice(this.#top, 1);
        if (gone && this.#top === 0 && !this.#main) this.#keep(gone);
        this.rows.splice(this.#bottom, 0, this.#blank());
      } else {
        this.rows.splice(this.#bottom, 1);
        this.rows.splice(this.#top, 0, this.#blank());
      }
    }
  }

  /**
   * Takes a sequence at `i`; how long it was, 0 when it has not ended.
   *
   * @param {string} data
   * @param {number} i
   * @returns {number}
   */
  #escape(data, i) {
    const kind = data[i + 1];
    if (kind === undefined) return 0;
    if (kind === '[') {
      const match = /^([<-?]*)([0-9;:]*)([ -/]*)([@-~])/.exec(data.slice(i + 2, i + 200));
      if (!match) return data.length - i > 150 ? 2 : 0;
      this.#csi(match[4] ?? '', match[1] ?? '', (match[2] ?? '').split(/[;:]/).map((p) => (p === '' ? -1 : Number(p))), match[3] ?? '');
      return 2 + match[0].length;
    }
    if (kind === ']' || kind === 'P' || kind === '^' || kind === '_') {
      const end = /\u0007|\u001b\\/.exec(data.slice(i + 2));
      if (!end) return 0;
      const body = data.slice(i + 2, i + 2 + end.index);
      const title = kind === ']' ? /^[02];(.*)$/s.exec(body) : null;
      if (title) this.title = title[1] ?? '';
      return 2 + end.index + end[0].length;
    }
    if ('()*+#%'.includes(kind)) {
      const set = data[i + 2];
      if (set === undefined) return 0;
      if (kind === '(') this.#lines = set === '0';
      return 3;
    }
    if (kind === '7') this.#save();
    else if (kind === '8') this.#restore();
    else if (kind === 'D') this.#feed();
    else if (kind === 'E') {
      this.column = 0;
      this.#feed();
    } else if (kind === 'M') {
      if (this.row === this.#top) this.#scroll(-1);
      else this.row = Math.max(0, this.row - 1);
    } else if (kind === 'H') this.#tabs.add(this.column);
    else if (kind === 'c') this.#reset();
    return 2;
  }

  #reset() {
    this.#style = PLAIN;
    this.#main = null;
    this.#top = 0;
    this.#bottom = this.height - 1;
    this.rows = Array.from({ length: this.height }, () => this.#blank());
    this.row = this.column = 0;
    this.cursorShown = true;
    this.#lines = this.application = this.brackets = this.#origin = false;
    this.#resetTabs();
  }

  #save() {
    this.#saved = { row: this.row, column: this.column, style: this.#style };
  }

  #restore() {
    this.row = Math.min(this.#saved.row, this.height - 1);
    this.column = Math.min(this.#saved.column, this.columns - 1);
    this.#style = this.#saved.style;
    this.#wrap = false;
  }

  /**
   * @param {string} final
   * @param {string} mark
   * @param {number[]} given
   * @param {string} middle
   */
  #csi(final, mark, given, middle) {
    /**
     * @param {number} i
     * @param {number} [other]
     */
    const p = (i, other = 1) => ((given[i] ?? -1) <= 0 ? other : /** @type {number} */ (given[i]));
    /** @param {number} row */
    const clampRow = (row) => Math.min(this.height - 1, Math.max(0, row));
    /** @param {number} column */
    const clampColumn = (column) => Math.min(this.columns - 1, Math.max(0, column));
    if (mark === '?' && (final === 'h' || final === 'l')) {
      for (const mode of given) this.#mode(mode, final === 'h');
      return;
    }
    if (mark || middle) {
      if (mark === '>' && final === 'c') this.reply('\u001b[>0;0;0c');
      return;
    }
    const row = /** @type {Cell[]} */ (this.rows[this.row]);
    if (final !== 'm') this.#wrap = false;
    switch (final) {
      case 'A': this.row = Math.max(this.row >= this.#top ? this.#top : 0, this.row - p(0)); break;
      case 'B': case 'e': this.row = Math.min(this.row <= this.#bottom ? this.#bottom : this.height - 1, this.row + p(0)); break;
      case 'C': case 'a': this.column = clampColumn(this.column + p(0)); break;
      case 'D': this.column = clampColumn(this.column - p(0)); break;
      case 'E': this.row = clampRow(this.row + p(0)); this.column = 0; break;
      case 'F': this.row = clampRow(this.row - p(0)); this.column = 0; break;
      case 'G': case '`': this.column = clampColumn(p(0) - 1); break;
      case 'H': case 'f': this.row = clampRow(p(0) - 1 + (this.#origin ? this.#top : 0)); this.column = clampColumn(p(1) - 1); break;
      case 'd': this.row = clampRow(p(0) - 1); break;
      case 'J': this.#erase(p(0, 0)); break;
      case 'K': {
        const mode = p(0, 0);
        const from = mode === 0 ? this.column : 0;
        const to = mode === 1 ? this.column : this.columns - 1;
        const blank = this.#blank();
        for (let i = from; i <= to; i++) row[i] = /** @type {Cell} */ (blank[i]);
        break;
      }
      case 'L': case 'M':
        if (this.row >= this.#top && this.row <= this.#bottom) {
          for (let i = 0; i < Math.min(p(0), this.height); i++) {
            if (final === 'L') {
              this.rows.splice(this.#bottom, 1);
              this.rows.splice(this.row, 0, this.#blank());
            } else {
              this.rows.splice(this.row, 1);
              this.rows.splice(this.#bottom, 0, this.#blank());
            }
          }
        }
        break;
      case 'P': row.splice(this.column, p(0)); while (row.length < this.columns) row.push(BLANK); break;
      case '@': for (let i = 0; i < Math.min(p(0), this.columns); i++) row.splice(this.column, 0, BLANK); row.length = this.columns; break;
      case 'X': for (let i = this.column; i < Math.min(this.columns, this.column + p(0)); i++) row[i] = BLANK; break;
      case 'S': this.#scroll(p(0)); break;
      case 'T': this.#scroll(-p(0)); break;
      case 'r':
        this.#top = clampRow(p(0) - 1);
        this.#bottom = clampRow(p(1, this.height) - 1);
        if (this.#top >= this.#bottom) [this.#top, this.#bottom] = [0, this.height - 1];
        this.row = this.#origin ? this.#top : 0;
        this.column = 0;
        break;
      case 's': this.#save(); break;
      case 'u': this.#restore(); break;
      case 'g': if (p(0, 0) === 3) this.#tabs.clear(); else this.#tabs.delete(this.column); break;
      case 'c': this.reply('\u001b[?1;2c'); break;
      case 'n':
        if (p(0, 0) === 6) this.reply(`\u001b[${this.row + 1};${this.column + 1}R`);
        else if (p(0, 0) === 5) this.reply('\u001b[0n');
        break;
      case 'm': this.#paint(given); break;
    }
  }

  /**
   * @param {number} mode
   * @param {boolean} on
   */
  #mode(mode, on) {
    if (mode === 1) this.application = on;
    else if (mode === 6) this.#origin = on;
    else if (mode === 7) this.#autowrap = on;
    else if (mode === 25) this.cursorShown = on;
    else if (mode === 2004) this.brackets = on;
    else if (mode === 47 || mode === 1047 || mode === 1049) {
      if (on && !this.#main) {
        this.#save();
        this.#main = { rows: this.rows, saved: this.#saved };
        this.rows = Array.from({ length: this.height }, () => this.#blank());
      } else if (!on && this.#main) {
        this.rows = this.#main.rows;
        this.#saved = this.#main.saved;
        this.#main = null;
        this.#restore();
      }
    }
  }

  /** @param {number} mode */
  #erase(mode) {
    const blank = () => this.#blank();
    if (mode === 3) {
      this.history.length = 0;
      return;
    }
    const row = /** @type {Cell[]} */ (this.rows[this.row]);
    if (mode === 2) {
      for (let i = 0; i < this.height; i++) this.rows[i] = blank();
    } else if (mode === 0) {
      const cells = blank();
      for (let i = this.column; i < this.columns; i++) row[i] = /** @type {Cell} */ (cells[i]);
      for (let i = this.row + 1; i < this.height; i++) this.rows[i] = blank();
    } else {
      const cells = blank();
      for (let i = 0; i <= this.column; i++) row[i] = /** @type {Cell} */ (cells[i]);
      for (let i = 0; i < this.row; i++) this.rows[i] = blank();
    }
  }

  /** @param {number[]} given */
  #paint(given) {
    const style = { ...this.#style };
    for (let i = 0; i < given.length; i++) {
      const code = Math.max(0, /** @type {number} */ (given[i]));
      if (code === 0) Object.assign(style, PLAIN);
      else if (code === 1) style.flags |= BOLD;
      else if (code === 2) style.flags |= DIM;
      else if (code === 3) style.flags |= ITALIC;
      else if (code === 4) style.flags |= UNDERLINE;
      else if (code === 7) style.flags |= INVERSE;
      else if (code === 9) style.flags |= STRIKE;
      else if (code === 22) style.flags &= ~(BOLD | DIM);
      else if (code === 23) style.flags &= ~ITALIC;
      else if (code === 24) style.flags &= ~UNDERLINE;
      else if (code === 27) style.flags &= ~INVERSE;
      else if (code === 29) style.flags &= ~STRIKE;
      else if (code >= 30 && code <= 37) style.fg = code - 30;
      else if (code >= 40 && code <= 47) style.bg = code - 40;
      else if (code >= 90 && code <= 97) style.fg = code - 82;
      else if (code >= 100 && code <= 107) style.bg = code - 92;
      else if (code === 39) style.fg = -1;
      else if (code === 49) style.bg = -1;
      else if (code === 38 || code === 48) {
        /** @type {number | string} */
        let colour = -1;
        if (given[i + 1] === 5) {
          colour = Math.min(255, Math.max(0, given[i + 2] ?? 0));
          i += 2;
        } else if (given[i + 1] === 2) {
          /** @param {number} n */
          const part = (n) => Math.min(255, Math.max(0, given[n] ?? 0));
          colour = `rgb(${part(i + 2)}, ${part(i + 3)}, ${part(i + 4)})`;
          i += 4;
        }
        if (code === 38) style.fg = colour;
        else style.bg = colour;
      }
    }
    this.#style = style;
  }
}

/**
 * A colour of the 256.
 *
 * @param {number | string} value
 * @returns {string | null}
 */
export function colour(value) {
  if (typeof value === 'string') return value;
  if (value < 0) return null;
  if (value < 16) return `var(--t${value})`;
  if (value >= 232) {
    const grey = 8 + (value - 232) * 10;
    return `rgb(${grey}, ${grey}, ${grey})`;
  }
  /** @param {number} n */
  const level = (n) => (n ? 55 + n * 40 : 0);
  const n = value - 16;
  return `rgb(${level(Math.floor(n / 36))}, ${level(Math.floor(n / 6) % 6)}, ${level(n % 6)})`;
}
