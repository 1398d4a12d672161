/**
 * The screen of a terminal: applies the escape sequences of xterm to a grid of
 * cells. Does not use the DOM.
 *
 * The sequences are those of ECMA-48 and of xterm's "Control Sequences" that the
 * terminfo entry `xterm-256color` and common programs use.
 */
import { COMBINING, GRAPHICS, WIDE } from './vt-chars.js';
import { applyRenditions, clamp, PLAIN } from './vt-style.js';
/** @import { Cell, Style } from './types.d.ts' */

/** @type {Cell} */
const BLANK = { text: ' ', style: PLAIN };

/** Lines that scrolled out at the top and are kept. */
export const MAX_HISTORY = 2000;

/** Lines above the limit at which the history is cut, so that this is rare. */
const HISTORY_SLACK = 200;

/** Control sequences that are longer are ignored. */
const MAX_CSI_LENGTH = 256;

/** Bytes of an unfinished string, such as a title, that are kept. */
const MAX_STRING_LENGTH = 4096;

/**
 * What "save cursor" saves.
 *
 * @typedef {object} Saved
 * @property {number} row
 * @property {number} column
 * @property {Style} style
 * @property {boolean} origin
 * @property {boolean[]} graphics
 * @property {number} shift
 */

/** @returns {Saved} */
const home = () => ({ row: 0, column: 0, style: PLAIN, origin: false, graphics: [false, false], shift: 0 });

/**
 * Returns the length of the string sequence that begins at `i` and the text in it, or
 * null when it has not ended. An escape sequence within it ends it.
 *
 * @param {string} data
 * @param {number} i
 * @returns {{ length: number; text: string } | null}
 */
function readString(data, i) {
  const end = /[\u0007\u0018\u001a]|\u001b\\|\u001b(?=[^\\])/.exec(data.slice(i + 2));
  if (!end) return null;
  const aborted = end[0] === '\u001b';
  return { length: 2 + end.index + (aborted ? 0 : end[0].length), text: data.slice(i + 2, i + 2 + end.index) };
}

export class Screen {
  /** @type {Cell[][]} */
  rows = [];
  /** @readonly @type {Cell[][]} */
  history = [];
  /** How often lines were removed from the history. */
  trims = 0;
  row = 0;
  column = 0;
  cursorShown = true;
  /** Arrow keys send application codes. */
  application = false;
  /** Pasted text is bracketed. */
  brackets = false;
  title = '';
  /**
   * Receives the terminal's replies to queries.
   *
   * @type {(text: string) => void}
   */
  reply = () => {};
  #style = PLAIN;
  /** The scroll region's first row. */
  #top = 0;
  /** The scroll region's last row. */
  #bottom;
  /** The cursor is after the last column: the next character goes to the next row. */
  #wrap = false;
  #autowrap = true;
  /** Rows are counted from the scroll region's first one. */
  #origin = false;
  /** Characters move those after them. */
  #insert = false;
  /** Whether the character sets G0 and G1 are DEC's special graphics. */
  #graphics = [false, false];
  /** The character set in use: 0 for G0, 1 for G1. */
  #shift = 0;
  #saved = home();
  /**
   * The main screen while the alternate one is shown.
   *
   * @type {{ rows: Cell[][]; row: number; saved: Saved } | null}
   */
  #main = null;
  /** An unfinished sequence at the end of what was written. */
  #rest = '';
  /** The last printed character. */
  #last = '';
  /** @type {Set<number>} */
  #tabs = new Set();

  /**
   * @param {number} columns
   * @param {number} height
   */
  constructor(columns, height) {
    this.columns = columns;
    this.height = height;
    this.#bottom = height - 1;
    this.rows = this.#blankRows();
    this.#resetTabs();
  }

  /** @returns {boolean} */
  get alternate() {
    return this.#main !== null;
  }

  /**
   * Returns an empty cell with the current background.
   *
   * @returns {Cell}
   */
  #blank() {
    return this.#style.bg === -1 ? BLANK : { text: ' ', style: { fg: -1, bg: this.#style.bg, flags: 0 } };
  }

  /** @returns {Cell[]} */
  #blankRow() {
    return new Array(this.columns).fill(this.#blank());
  }

  /** @returns {Cell[][]} */
  #blankRows() {
    return Array.from({ length: this.height }, () => this.#blankRow());
  }

  /** @returns {Cell[]} */
  get #current() {
    return /** @type {Cell[]} */ (this.rows[this.row]);
  }

  #resetTabs() {
    this.#tabs.clear();
    for (let i = 8; i < 1000; i += 8) this.#tabs.add(i);
  }

  /**
   * Changes the size. Rows above the cursor go to the history when there is no room
   * for them.
   *
   * @param {number} columns
   * @param {number} height
   */
  resize(columns, height) {
    // A cursor that waits after the last column has room there now.
    if (this.#wrap && columns > this.columns) this.column++;
    this.#wrap = false;
    this.columns = columns;
    this.height = height;
    this.row = this.#fit(this.rows, this.row, this.#main === null);
    if (this.#main) {
      const row = this.#fit(this.#main.rows, this.#main.row, true);
      this.#main.saved = { ...this.#main.saved, row: Math.max(0, this.#main.saved.row + row - this.#main.row) };
      this.#main.row = row;
    }
    this.#top = 0;
    this.#bottom = height - 1;
    this.column = Math.min(this.column, columns - 1);
  }

  /**
   * Fits rows to the size. Returns the new index of row `at`, which stays.
   *
   * @param {Cell[][]} rows
   * @param {number} at
   * @param {boolean} keep
   * @returns {number}
   */
  #fit(rows, at, keep) {
    let index = at;
    for (const row of rows) {
      while (row.length < this.columns) row.push(BLANK);
      // The half of a wide character cannot stay.
      if (row[this.columns]?.text === '') row[this.columns - 1] = BLANK;
      row.length = this.columns;
    }
    while (rows.length > this.height) {
      if (index < rows.length - 1) {
        rows.pop();
        continue;
      }
      const gone = rows.shift();
      if (gone && keep) this.#keep(gone);
      index--;
    }
    while (rows.length < this.height) rows.push(this.#blankRow());
    return index;
  }

  /** @param {Cell[]} row */
  #keep(row) {
    this.history.push(row);
    if (this.history.length <= MAX_HISTORY + HISTORY_SLACK) return;
    this.history.splice(0, this.history.length - MAX_HISTORY);
    this.trims++;
  }

  /**
   * Writes a program's output. A sequence or a surrogate pair may be split over two
   * calls.
   *
   * @param {string} text
   */
  write(text) {
    const data = this.#rest + text;
    this.#rest = '';
    for (let i = 0; i < data.length; ) {
      const code = data.charCodeAt(i);
      if (code === 0x1b) {
        const used = this.#escape(data, i);
        if (used === 0) {
          this.#rest = data.slice(i);
          return;
        }
        i += used;
      } else if (code < 0x20 || (code >= 0x7f && code < 0xa0)) {
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
  }

  /** @param {number} code */
  #control(code) {
    if (code === 8) {
      this.column = Math.max(0, this.column - 1);
      this.#wrap = false;
    } else if (code === 9) this.#tab(1);
    else if (code >= 10 && code <= 12) this.#feed();
    else if (code === 13) {
      this.column = 0;
      this.#wrap = false;
    } else if (code === 14) this.#shift = 1;
    else if (code === 15) this.#shift = 0;
  }

  /**
   * Moves the cursor over tab stops, backwards when `count` is negative.
   *
   * @param {number} count
   */
  #tab(count) {
    const step = Math.sign(count);
    const last = this.columns - 1;
    for (let i = 0; i !== count && (step > 0 ? this.column < last : this.column > 0); i += step) {
      do this.column += step;
      while (this.column > 0 && this.column < last && !this.#tabs.has(this.column));
    }
  }

  /**
   * Puts a cell at a column. A wide character loses both halves when one is
   * overwritten.
   *
   * @param {Cell[]} row
   * @param {number} column
   * @param {Cell} cell
   */
  #put(row, column, cell) {
    const old = row[column];
    if (old?.text === '' && cell.text !== '' && column > 0) row[column - 1] = { text: ' ', style: (row[column - 1] ?? BLANK).style };
    if (row[column + 1]?.text === '') row[column + 1] = { text: ' ', style: (row[column + 1] ?? BLANK).style };
    row[column] = cell;
  }

  /**
   * Blanks columns from `from` up to and including `to`.
   *
   * @param {Cell[]} row
   * @param {number} from
   * @param {number} to
   */
  #clear(row, from, to) {
    const blank = this.#blank();
    for (let i = from; i <= to; i++) this.#put(row, i, blank);
  }

  /**
   * Adds a combining character to the one before the cursor.
   *
   * @param {string} char
   */
  #combine(char) {
    const row = this.#current;
    let at = this.#wrap ? this.column : this.column - 1;
    if (row[at]?.text === '') at--;
    const cell = row[at] ?? BLANK;
    row[at] = { text: cell.text + char, style: cell.style };
  }

  /** @param {string} raw */
  #print(raw) {
    if (COMBINING.test(raw) && (this.column > 0 || this.#wrap)) {
      this.#combine(raw);
      return;
    }
    this.#last = raw;
    const char = this.#graphics[this.#shift] ? (GRAPHICS[raw] ?? raw) : raw;
    const wide = WIDE.test(char) && this.columns > 1;
    if (this.#wrap || (wide && this.column === this.columns - 1)) {
      if (this.#autowrap) {
        this.column = 0;
        this.#feed();
      } else if (wide) {
        this.column = this.columns - 2;
      }
      this.#wrap = false;
    }
    const row = this.#current;
    if (this.#insert) this.#insertCells(row, this.column, wide ? 2 : 1);
    this.#put(row, this.column, { text: char, style: this.#style });
    if (wide) this.#put(row, ++this.column, { text: '', style: this.#style });
    if (this.column >= this.columns - 1) this.#wrap = true;
    else this.column++;
  }

  /** Moves the cursor down and scrolls at the end of the region. */
  #feed() {
    this.#wrap = false;
    if (this.row === this.#bottom) this.#scroll(1);
    else if (this.row < this.height - 1) this.row++;
  }

  /**
   * Scrolls the region up, or down when `n` is negative.
   *
   * @param {number} n
   */
  #scroll(n) {
    for (let i = 0; i < Math.abs(n) && i <= this.#bottom - this.#top; i++) {
      if (n > 0) {
        const [gone] = this.rows.splice(this.#top, 1);
        if (gone && this.#top === 0 && !this.#main) this.#keep(gone);
        this.rows.splice(this.#bottom, 0, this.#blankRow());
      } else {
        this.rows.splice(this.#bottom, 1);
        this.rows.splice(this.#top, 0, this.#blankRow());
      }
    }
  }

  /**
   * Handles the sequence at `i`. Returns its length, or 0 when it has not ended.
   *
   * @param {string} data
   * @param {number} i
   * @returns {number}
   */
  #escape(data, i) {
    const kind = data[i + 1];
    if (kind === undefined) return 0;
    // A second escape begins another sequence.
    if (kind === '\u001b') return 1;
    if (kind === '[') return this.#readCsi(data, i);
    if (']PX^_'.includes(kind)) return this.#string(data, i, kind);
    const charset = /^[ -/]+/.exec(data.slice(i + 1, i + 5))?.[0];
    if (charset) {
      const final = data[i + 1 + charset.length];
      if (final === undefined) return 0;
      if (charset === '(') this.#graphics[0] = final === '0';
      else if (charset === ')') this.#graphics[1] = final === '0';
      return 2 + charset.length;
    }
    switch (kind) {
      case '7': this.#save(); break;
      case '8': this.#restore(); break;
      case 'D': this.#feed(); break;
      case 'E':
        this.column = 0;
        this.#feed();
        break;
      case 'H': this.#tabs.add(this.column); break;
      case 'M':
        this.#wrap = false;
        if (this.row === this.#top) this.#scroll(-1);
        else this.row = Math.max(0, this.row - 1);
        break;
      case 'c': this.#reset(); break;
    }
    return 2;
  }

  /**
   * Handles a sequence that contains a string: a title is used, others are ignored.
   *
   * @param {string} data
   * @param {number} i
   * @param {string} kind
   * @returns {number}
   */
  #string(data, i, kind) {
    const found = readString(data, i);
    if (!found) {
      if (data.length - i <= MAX_STRING_LENGTH) return 0;
      // The text is too long for a title. Its end must still be found.
      this.#rest = data.slice(i, i + 2) + (data.endsWith('\u001b') ? '\u001b' : '');
      return data.length - i;
    }
    const title = kind === ']' ? /^[02];(.*)$/s.exec(found.text) : null;
    if (title) this.title = title[1] ?? '';
    return found.length;
  }

  /**
   * Handles a control sequence (CSI). Control characters within it are obeyed.
   *
   * @param {string} data
   * @param {number} i
   * @returns {number}
   */
  #readCsi(data, i) {
    const controls = [];
    let body = '';
    for (let j = i + 2; j < data.length; j++) {
      const char = /** @type {string} */ (data[j]);
      const code = char.charCodeAt(0);
      if (code === 0x1b || code > 0x7f || j - i > MAX_CSI_LENGTH) return j - i;
      if (code === 0x18 || code === 0x1a) return j - i + 1;
      if (code < 0x20 || code === 0x7f) {
        controls.push(code);
        continue;
      }
      body += char;
      if (code < 0x40) continue;
      for (const control of controls) this.#control(control);
      const parts = /^([<-?]*)([0-9;:]*)([ -/]*)([@-~])$/.exec(body);
      if (parts) {
        const groups = (parts[2] ?? '').split(';').map((group) => group.split(':').map((n) => (n === '' ? -1 : Number(n))));
        this.#csi(parts[4] ?? '', parts[1] ?? '', groups, parts[3] ?? '');
      }
      return j - i + 1;
    }
    return 0;
  }

  /** Resets everything except the title and the history (RIS). */
  #reset() {
    this.#softReset();
    this.#main = null;
    this.rows = this.#blankRows();
    this.row = this.column = 0;
    this.#wrap = false;
    this.#autowrap = true;
    this.brackets = false;
    this.#last = '';
    this.#resetTabs();
  }

  /** Resets modes, and neither the content nor the cursor's position (DECSTR). */
  #softReset() {
    this.#style = PLAIN;
    this.#top = 0;
    this.#bottom = this.height - 1;
    this.#saved = home();
    this.#graphics = [false, false];
    this.#shift = 0;
    this.cursorShown = true;
    this.#insert = this.#origin = this.application = false;
  }

  #save() {
    this.#saved = {
      row: this.row,
      column: this.column,
      style: this.#style,
      origin: this.#origin,
      graphics: [...this.#graphics],
      shift: this.#shift,
    };
  }

  #restore() {
    const { row, column, style, origin, graphics, shift } = this.#saved;
    this.row = Math.min(row, this.height - 1);
    this.column = Math.min(column, this.columns - 1);
    this.#style = style;
    this.#origin = origin;
    this.#graphics = [...graphics];
    this.#shift = shift;
    this.#wrap = false;
  }

  /**
   * Moves the cursor to a row, counted from the region's first one in origin mode.
   *
   * @param {number} row
   */
  #goToRow(row) {
    this.row = this.#origin ? clamp(row + this.#top, this.#top, this.#bottom) : clamp(row, 0, this.height - 1);
  }

  /**
   * Moves the cursor by rows. The region's bounds stop it unless it is beyond them.
   *
   * @param {number} rows
   */
  #moveRows(rows) {
    const low = this.row >= this.#top ? this.#top : 0;
    const high = this.row <= this.#bottom ? this.#bottom : this.height - 1;
    this.row = clamp(this.row + rows, low, high);
  }

  /**
   * Handles a control sequence.
   *
   * @param {string} final
   * @param {string} mark the private marker, as in `CSI ? 25 h`
   * @param {number[][]} groups parameters with their subparameters; -1 for omitted ones
   * @param {string} middle intermediate characters
   */
  #csi(final, mark, groups, middle) {
    /**
     * Returns a parameter; 0 and omitted ones stand for the default.
     *
     * @param {number} i
     */
    const p = (i, other = 1) => {
      const value = groups[i]?.[0] ?? -1;
      return value <= 0 ? other : value;
    };
    if (mark === '?' && (final === 'h' || final === 'l')) {
      for (const [mode] of groups) this.#privateMode(mode ?? 0, final === 'h');
      return;
    }
    if (mark || middle) {
      if (mark === '>' && final === 'c') this.reply('\u001b[>0;0;0c');
      else if (middle === '!' && final === 'p') this.#softReset();
      return;
    }
    if ('m' === final) {
      this.#style = applyRenditions(this.#style, groups);
      return;
    }
    if ('cghlnbs'.includes(final)) {
      this.#otherCsi(final, p(0, 0));
      return;
    }
    this.#wrap = false;
    if (this.#moveCsi(final, p)) return;
    this.#editCsi(final, p);
  }

  /**
   * Handles sequences that neither move the cursor nor change cells.
   *
   * @param {string} final
   * @param {number} parameter
   */
  #otherCsi(final, parameter) {
    switch (final) {
      case 'b': {
        const count = Math.min(Math.max(1, parameter), this.columns * this.height);
        if (this.#last) for (let i = 0; i < count; i++) this.#print(this.#last);
        break;
      }
      case 'c': this.reply('\u001b[?1;2c'); break;
      case 'g':
        if (parameter === 3) this.#tabs.clear();
        else if (parameter === 0) this.#tabs.delete(this.column);
        break;
      case 'h': case 'l':
        if (parameter === 4) this.#insert = final === 'h';
        break;
      case 'n':
        if (parameter === 6) this.reply(`\u001b[${this.row + 1 - (this.#origin ? this.#top : 0)};${this.column + 1}R`);
        else if (parameter === 5) this.reply('\u001b[0n');
        break;
      case 's': this.#save(); break;
    }
  }

  /**
   * Handles sequences that move the cursor. Returns whether it was one.
   *
   * @param {string} final
   * @param {(i: number, other?: number) => number} p
   * @returns {boolean}
   */
  #moveCsi(final, p) {
    switch (final) {
      case 'A': this.#moveRows(-p(0)); break;
      case 'B': case 'e': this.#moveRows(p(0)); break;
      case 'C': case 'a': this.column = clamp(this.column + p(0), 0, this.columns - 1); break;
      case 'D': this.column = clamp(this.column - p(0), 0, this.columns - 1); break;
      case 'E':
        this.#moveRows(p(0));
        this.column = 0;
        break;
      case 'F':
        this.#moveRows(-p(0));
        this.column = 0;
        break;
      case 'G': case '`': this.column = clamp(p(0) - 1, 0, this.columns - 1); break;
      case 'H': case 'f':
        this.#goToRow(p(0) - 1);
        this.column = clamp(p(1) - 1, 0, this.columns - 1);
        break;
      case 'I': this.#tab(p(0)); break;
      case 'Z': this.#tab(-p(0)); break;
      case 'd': this.#goToRow(p(0) - 1); break;
      case 'u': this.#restore(); break;
      case 'r': {
        const [top, bottom] = [p(0) - 1, Math.min(this.height, p(1, this.height)) - 1];
        if (top >= bottom) break;
        [this.#top, this.#bottom] = [top, bottom];
        this.#goToRow(0);
        this.column = 0;
        break;
      }
      default: return false;
    }
    return true;
  }

  /**
   * Handles sequences that change cells.
   *
   * @param {string} final
   * @param {(i: number, other?: number) => number} p
   */
  #editCsi(final, p) {
    const row = this.#current;
    switch (final) {
      case '@': this.#insertCells(row, this.column, p(0)); break;
      case 'P': this.#deleteCells(row, this.column, p(0)); break;
      case 'X': this.#clear(row, this.column, Math.min(this.columns, this.column + p(0)) - 1); break;
      case 'J': this.#eraseDisplay(p(0, 0)); break;
      case 'K': this.#eraseLine(p(0, 0)); break;
      case 'L': this.#shiftLines(-p(0)); break;
      case 'M': this.#shiftLines(p(0)); break;
      case 'S': this.#scroll(p(0)); break;
      case 'T': this.#scroll(-p(0)); break;
    }
  }

  /**
   * Inserts blanks. The cells after them move to the right.
   *
   * @param {Cell[]} row
   * @param {number} column
   * @param {number} count
   */
  #insertCells(row, column, count) {
    const n = Math.min(count, this.columns - column);
    if (row[column]?.text === '') this.#clear(row, column, column);
    row.splice(column, 0, ...new Array(n).fill(this.#blank()));
    if (row[this.columns]?.text === '') row[this.columns - 1] = BLANK;
    row.length = this.columns;
  }

  /**
   * Deletes cells. The cells after them move to the left.
   *
   * @param {Cell[]} row
   * @param {number} column
   * @param {number} count
   */
  #deleteCells(row, column, count) {
    const n = Math.min(count, this.columns - column);
    this.#clear(row, column, column + n - 1);
    row.splice(column, n);
    while (row.length < this.columns) row.push(this.#blank());
  }

  /**
   * Deletes lines at the cursor, or inserts them when `n` is negative. Lines below
   * move, as far as the region extends.
   *
   * @param {number} n
   */
  #shiftLines(n) {
    if (this.row < this.#top || this.row > this.#bottom) return;
    for (let i = 0; i < Math.min(Math.abs(n), this.#bottom - this.row + 1); i++) {
      this.rows.splice(n < 0 ? this.#bottom : this.row, 1);
      this.rows.splice(n < 0 ? this.row : this.#bottom, 0, this.#blankRow());
    }
    this.column = 0;
  }

  /**
   * Sets or resets a mode of DEC's or xterm's.
   *
   * @param {number} mode
   * @param {boolean} on
   */
  #privateMode(mode, on) {
    switch (mode) {
      case 1: this.application = on; break;
      case 6:
        this.#origin = on;
        this.#wrap = false;
        this.#goToRow(0);
        this.column = 0;
        break;
      case 7: this.#autowrap = on; break;
      case 25: this.cursorShown = on; break;
      case 47: case 1047: this.#setAlternate(on); break;
      case 1048:
        if (on) this.#save();
        else this.#restore();
        break;
      case 1049:
        // Set twice, it must not lose the main screen's cursor.
        if (on === this.alternate) break;
        if (on) this.#save();
        this.#setAlternate(on);
        if (!on) this.#restore();
        break;
      case 2004: this.brackets = on; break;
    }
  }

  /** @param {boolean} on */
  #setAlternate(on) {
    if (on && !this.#main) {
      this.#main = { rows: this.rows, row: this.row, saved: this.#saved };
      this.rows = this.#blankRows();
    } else if (!on && this.#main) {
      this.rows = this.#main.rows;
      this.#saved = this.#main.saved;
      this.#main = null;
    }
  }

  /** @param {number} mode 0: from the cursor on, 1: up to the cursor, 2: all */
  #eraseLine(mode) {
    this.#clear(this.#current, mode === 0 ? this.column : 0, mode === 1 ? this.column : this.columns - 1);
  }

  /** @param {number} mode 0: from the cursor on, 1: up to the cursor, 2: all, 3: the history */
  #eraseDisplay(mode) {
    if (mode === 3) {
      this.history.length = 0;
      this.trims++;
      return;
    }
    if (mode > 3) return;
    const first = mode === 0 ? this.row + 1 : 0;
    const last = mode === 1 ? this.row - 1 : this.height - 1;
    for (let i = first; i <= last; i++) this.rows[i] = this.#blankRow();
    if (mode < 2) this.#eraseLine(mode);
  }
}
