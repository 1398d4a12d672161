import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { BOLD, colour, DIM, INVERSE, ITALIC, STRIKE, UNDERLINE } from '../vt-style.js';
import { MAX_HISTORY, Screen } from '../vt.js';

const ESC = '\u001b';
const CSI = `${ESC}[`;

function screen(columns = 10, height = 4, ...writes) {
  const s = new Screen(columns, height);
  for (const text of writes) s.write(text);
  return s;
}

const line = (cells) => cells.map((c) => c.text).join('').trimEnd();
const text = (s) => s.rows.map(line);
const past = (s) => s.history.map(line);
const at = (s) => [s.row, s.column];

function shows(s, ...wanted) {
  assert.deepEqual(text(s), [...wanted, ...new Array(s.height - wanted.length).fill('')]);
  for (const row of s.rows) assert.equal(row.length, s.columns);
}

/** A screen of 10×4 that shows `abcdefghij` and three more such lines. */
const full = (...writes) => screen(10, 4, 'abcdefghij\r\nABCDEFGHIJ\r\n0123456789\r\nklmnopqrst', ...writes);

describe('printing', () => {
  test('text and the cursor', () => {
    const s = screen(10, 4, 'abc');
    shows(s, 'abc');
    assert.deepEqual(at(s), [0, 3]);
  });

  test('the cursor waits after the last column', () => {
    const s = screen(3, 3, 'abc');
    assert.deepEqual(at(s), [0, 2]);
    s.write('d');
    shows(s, 'abc', 'd');
    assert.deepEqual(at(s), [1, 1]);
  });

  test('a line break after a full line is one line break', () => {
    shows(screen(3, 3, 'abc\r\nd'), 'abc', 'd');
  });

  test('a return after a full line stays in it', () => {
    shows(screen(3, 3, 'abc\rX'), 'Xbc');
  });

  test('a movement ends the wait', () => {
    shows(screen(3, 3, `abc${CSI}CX`), 'abX');
    shows(screen(3, 3, 'abc\bX'), 'aXc');
    shows(screen(3, 3, `abc${CSI}1;3HX`), 'abX');
  });

  test('renditions do not end the wait', () => {
    shows(screen(3, 3, `abc${CSI}1md`), 'abc', 'd');
    shows(screen(3, 3, `abc${CSI}6nd`), 'abc', 'd');
  });

  test('without automatic wrap the last column is overwritten', () => {
    shows(screen(3, 3, `${CSI}?7labcde`), 'abe');
    shows(screen(3, 3, `${CSI}?7labcde${CSI}?7hfg`), 'abe', 'fg');
  });

  test('controls', () => {
    shows(screen(10, 4, 'a\nb\u000bc\u000cd'), 'a', ' b', '  c', '   d');
    shows(screen(10, 4, 'ab\b\bX'), 'Xb');
    shows(screen(10, 4, '\b\bX'), 'X');
    shows(screen(10, 4, 'a\u0000\u0007\u007fb'), 'ab');
    shows(screen(10, 4, 'a\u0080\u009bb'), 'ab');
  });

  test('the last line scrolls into the history', () => {
    const s = screen(5, 2, 'a\r\nb\r\nc\r\nd');
    shows(s, 'c', 'd');
    assert.deepEqual(past(s), ['a', 'b']);
  });

  test('the history has an end', () => {
    const s = screen(5, 2);
    for (let i = 0; i < MAX_HISTORY + 500; i++) s.write(`${i}\r\n`);
    assert.ok(s.history.length >= MAX_HISTORY && s.history.length <= MAX_HISTORY + 200);
    assert.equal(line(s.history.at(-1)), String(MAX_HISTORY + 498));
    assert.ok(s.trims > 0);
  });

  test('repeat', () => {
    shows(screen(10, 4, `a${CSI}3bx`), 'aaaax');
    shows(screen(10, 4, `${CSI}3bx`), 'x');
    shows(screen(3, 3, `a${CSI}4b`), 'aaa', 'aa');
    shows(screen(10, 4, `${ESC}(0q${CSI}2b${ESC}(B`), '───');
    shows(screen(3, 2, `a${CSI}99999999b`), 'aaa', 'a');
  });
});

describe('wide and combining characters', () => {
  test('a wide character takes two cells', () => {
    const s = screen(10, 4, '世a');
    assert.deepEqual(s.rows[0].slice(0, 3).map((c) => c.text), ['世', '', 'a']);
    assert.deepEqual(at(s), [0, 3]);
  });

  test('which are wide', () => {
    for (const [char, width] of [
      ['世', 2], ['한', 2], ['ア', 2], ['Ａ', 2], ['ｱ', 1], ['😀', 2], ['✅', 2], ['⌚', 2], ['⚠', 1], ['✓', 1], ['─', 1], ['é', 1], ['🖥', 1], ['🇩', 1], ['𠀀', 2], ['…', 1], ['→', 1],
    ]) {
      assert.equal(screen(10, 2, char).column, width, char);
    }
  });

  test('a wide character does not fit into one column', () => {
    const s = screen(3, 3, 'ab世');
    shows(s, 'ab', '世');
    assert.deepEqual(at(s), [1, 2]);
  });

  test('a wide character fills a line', () => {
    const s = screen(4, 3, '世界x');
    shows(s, '世界', 'x');
  });

  test('without automatic wrap a wide character stays in its line', () => {
    const s = screen(3, 3, `${CSI}?7labc世`);
    shows(s, 'a世');
    assert.deepEqual(s.rows[0].map((c) => c.text), ['a', '世', '']);
  });

  test('one column has no room for them', () => {
    shows(screen(1, 3, '世界'), '世', '界');
  });

  test('half a character does not stay', () => {
    shows(screen(10, 2, `世${CSI}1;1Hx`), 'x');
    shows(screen(10, 2, `世${CSI}1;2Hx`), ' x');
    shows(screen(10, 2, `a世b${CSI}1;3H界`), 'a 界');
    shows(screen(10, 2, `世界${CSI}1;2H${CSI}K`), '');
    shows(screen(10, 2, `世界${CSI}1;3H${CSI}1K`), '');
    shows(screen(10, 2, `a世${CSI}1;2H${CSI}X|`), 'a|');
    shows(screen(10, 2, `a世b${CSI}1;3H${CSI}P`), 'a b');
    shows(screen(10, 2, `a世b${CSI}1;3H${CSI}@`), 'a   b');
    shows(screen(4, 2, `ab世${CSI}1;1H${CSI}@`), ' ab');
  });

  test('marks join the character before', () => {
    const s = screen(10, 2, 'e\u0301x');
    assert.deepEqual(s.rows[0].slice(0, 2).map((c) => c.text), ['e\u0301', 'x']);
    assert.deepEqual(screen(10, 2, '世\u0301').rows[0].slice(0, 2).map((c) => c.text), ['世\u0301', '']);
    assert.equal(screen(3, 2, 'abe\u0301').rows[0][2].text, 'e\u0301');
    assert.equal(screen(1, 2, 'e\u0301').rows[0][0].text, 'e\u0301');
    assert.equal(screen(10, 2, '✓\ufe0f').rows[0][0].text, '✓\ufe0f');
    assert.equal(screen(10, 2, 'a\u200bb').column, 2);
  });

  test('a mark at the start of a line has a cell', () => {
    assert.equal(screen(10, 2, '\u0301').column, 1);
  });
});

describe('output in pieces', () => {
  const everything = `a${CSI}1;31mb${CSI}0m${ESC}]0;title\u0007😀${CSI}?25l${ESC}(0q${ESC}(B世${ESC}P1$r${ESC}\\c${CSI}38:2::1:2:3md`;

  test('a sequence may be split anywhere', () => {
    const whole = screen(20, 4, everything);
    assert.equal(line(whole.rows[0]), 'ab😀─世cd');
    for (let i = 1; i < everything.length; i++) {
      const split = screen(20, 4, everything.slice(0, i), everything.slice(i));
      assert.deepEqual(split.rows, whole.rows, `split at ${i}`);
      assert.deepEqual([split.title, split.cursorShown], ['title', false]);
    }
  });

  test('one unit at a time', () => {
    const s = screen(20, 4);
    for (let i = 0; i < everything.length; i++) s.write(everything[i]);
    assert.deepEqual(s.rows, screen(20, 4, everything).rows);
  });

  test('UTF-8 may be split between bytes', () => {
    const bytes = new TextEncoder().encode(everything);
    for (let i = 1; i < bytes.length; i++) {
      const decoder = new TextDecoder();
      const s = screen(20, 4);
      for (const piece of [bytes.subarray(0, i), bytes.subarray(i)]) s.write(decoder.decode(piece, { stream: true }));
      assert.deepEqual(s.rows, screen(20, 4, everything).rows, `split at ${i}`);
    }
  });

  test('a lone surrogate is no end', () => {
    shows(screen(10, 2, '\ud83d', 'a'), '\ud83da');
  });
});

describe('sequences that are none', () => {
  test('an escape starts another sequence', () => {
    shows(screen(10, 2, `${ESC}${ESC}[1;3Hx`), '  x');
    shows(screen(10, 2, `${CSI}3${CSI}1;3Hx`), '  x');
  });

  test('cancelled ones', () => {
    shows(screen(10, 2, `${CSI}3\u0018x`), 'x');
    shows(screen(10, 2, `${CSI}3\u001ax`), 'x');
    shows(screen(10, 2, `${ESC}]0;a\u0018x`), 'x');
  });

  test('controls within are obeyed', () => {
    shows(screen(10, 3, `ab${CSI}\r2Cx`), 'abx');
    shows(screen(10, 3, `ab${CSI}2\nD`, 'x'), 'ab', 'x');
  });

  test('other characters do not hold up the output', () => {
    shows(screen(10, 2, `${CSI}3ü`), 'ü');
    assert.equal(line(screen(400, 2, `${CSI}${'1;'.repeat(200)}m`, 'x').rows[0]).at(-1), 'x');
  });

  test('parameters in a wrong place', () => {
    shows(screen(10, 2, `${CSI}1?2mx`), 'x');
    shows(screen(10, 2, `${CSI}1 2qx`), 'x');
  });

  test('unknown ones show nothing', () => {
    for (const unknown of [
      `${CSI}>4;2m`, `${CSI}=1c`, `${CSI}?1;2c`, `${CSI}22;0;0t`, `${CSI}?2026h`, `${CSI}12l`, `${CSI}2 q`, `${CSI}5y`, `${ESC}=`, `${ESC}>`, `${ESC}#8`,
      `${ESC} F`, `${ESC}%G`, `${ESC}*0`, `${ESC}$(C`, `${ESC}_apc${ESC}\\`, `${ESC}^pm${ESC}\\`, `${ESC}Xsos${ESC}\\`, `${ESC}]8;;http://x${ESC}\\`, `${ESC}\\`,
    ]) {
      const s = screen(10, 2, `a${unknown}b`);
      shows(s, 'ab');
      assert.equal(s.rows[0][1].style.flags, 0, JSON.stringify(unknown));
    }
  });
});

describe('strings', () => {
  test('titles', () => {
    assert.equal(screen(10, 2, `${ESC}]0;one\u0007`).title, 'one');
    assert.equal(screen(10, 2, `${ESC}]2;two; 2${ESC}\\`).title, 'two; 2');
    assert.equal(screen(10, 2, `${ESC}]1;icon\u0007`).title, '');
    assert.equal(screen(10, 2, `${ESC}]0;\u0007`).title, '');
  });

  test('another sequence ends one', () => {
    const s = screen(10, 2, `${ESC}]0;a${CSI}1;3Hx`);
    shows(s, '  x');
  });

  test('long ones are not shown', () => {
    const s = screen(10, 2, `a${ESC}]52;c;${'x'.repeat(3000)}`, 'y'.repeat(3000), 'z'.repeat(3000), `${ESC}`, '\\b');
    shows(s, 'ab');
    shows(screen(10, 2, `a${ESC}P${'x'.repeat(9000)}`, `\u0007b`), 'ab');
  });
});

describe('cursor movements', () => {
  const from = (sequence, origin = `${CSI}3;5H`) => at(screen(10, 6, origin + sequence));

  test('relative', () => {
    for (const [sequence, wanted] of [
      ['A', [1, 4]], ['2A', [0, 4]], ['9A', [0, 4]], ['0A', [1, 4]], ['B', [3, 4]], ['9B', [5, 4]], ['2e', [4, 4]],
      ['C', [2, 5]], ['99C', [2, 9]], ['2a', [2, 6]], ['D', [2, 3]], ['9D', [2, 0]], ['E', [3, 0]], ['2E', [4, 0]], ['9E', [5, 0]], ['F', [1, 0]], ['9F', [0, 0]],
    ]) {
      assert.deepEqual(from(CSI + sequence), wanted, sequence);
    }
  });

  test('absolute', () => {
    for (const [sequence, wanted] of [
      ['H', [0, 0]], [';H', [0, 0]], ['2H', [1, 0]], [';3H', [0, 2]], ['2;3H', [1, 2]], ['99;99H', [5, 9]], ['0;0f', [0, 0]], ['2;3f', [1, 2]],
      ['G', [2, 0]], ['7G', [2, 6]], ['99G', [2, 9]], ['7`', [2, 6]], ['d', [0, 4]], ['2d', [1, 4]], ['99d', [5, 4]],
    ]) {
      assert.deepEqual(from(CSI + sequence), wanted, sequence);
    }
  });

  test('index, next line, reverse index', () => {
    assert.deepEqual(from(`${ESC}D`), [3, 4]);
    assert.deepEqual(from(`${ESC}E`), [3, 0]);
    assert.deepEqual(from(`${ESC}M`), [1, 4]);
    shows(screen(5, 3, `a\r\nb${CSI}H${ESC}M`), '', 'a', 'b');
    shows(screen(5, 3, `a\r\nb\r\nc${ESC}D`), 'b', 'c');
  });

  test('save and restore', () => {
    for (const [save, restore] of [[`${ESC}7`, `${ESC}8`], [`${CSI}s`, `${CSI}u`], [`${CSI}?1048h`, `${CSI}?1048l`]]) {
      const s = screen(10, 4, `${CSI}2;3H${CSI}1;31m${save}${CSI}H${CSI}0m${restore}x`);
      assert.deepEqual(at(s), [1, 3]);
      assert.deepEqual(s.rows[1][2].style, { fg: 1, bg: -1, flags: BOLD });
    }
    assert.deepEqual(at(screen(10, 4, `abc${ESC}8`)), [0, 0]);
  });

  test('the character set is saved', () => {
    shows(screen(10, 2, `${ESC}(0${ESC}7${ESC}(B${ESC}8q`), '─');
  });

  test('a restored cursor is on the screen', () => {
    const s = screen(10, 4, `${CSI}4;10H${ESC}7`);
    s.resize(5, 2);
    s.write(`${ESC}8`);
    assert.deepEqual(at(s), [1, 4]);
  });

  test('reports', () => {
    const s = screen(10, 4);
    const replies = [];
    s.reply = (reply) => replies.push(reply);
    s.write(`${CSI}2;3H${CSI}6n${CSI}5n${CSI}c${CSI}0c${CSI}>c`);
    assert.deepEqual(replies, [`${CSI}2;3R`, `${CSI}0n`, `${CSI}?1;2c`, `${CSI}?1;2c`, `${CSI}>0;0;0c`]);
  });
});

describe('tabs', () => {
  test('every eighth column', () => {
    assert.equal(screen(20, 2, '\t').column, 8);
    assert.equal(screen(20, 2, 'abcdefgh\t').column, 16);
    assert.equal(screen(20, 2, '\t\t\t\t').column, 19);
  });

  test('set and cleared', () => {
    assert.equal(screen(20, 2, `abc${ESC}H\r\t`).column, 3);
    assert.equal(screen(20, 2, `\t${CSI}g\r\t`).column, 16);
    assert.equal(screen(20, 2, `${CSI}3g\t`).column, 19);
    assert.equal(screen(20, 2, `\t${CSI}1g\r\t`).column, 8);
  });

  test('forwards and backwards', () => {
    assert.equal(screen(40, 2, `${CSI}3I`).column, 24);
    assert.equal(screen(40, 2, `${CSI}99I`).column, 39);
    assert.equal(screen(40, 2, `${CSI}20G${CSI}Z`).column, 16);
    assert.equal(screen(40, 2, `${CSI}17G${CSI}Z`).column, 8);
    assert.equal(screen(40, 2, `${CSI}20G${CSI}2Z`).column, 8);
    assert.equal(screen(40, 2, `${CSI}20G${CSI}9Z`).column, 0);
  });

  test('tabs erase nothing', () => {
    shows(screen(20, 2, 'abcdefghij\r\tX'), 'abcdefghXj');
  });
});

describe('erasing', () => {
  test('in the line', () => {
    shows(full(`${CSI}2;4H${CSI}K`), 'abcdefghij', 'ABC', '0123456789', 'klmnopqrst');
    shows(full(`${CSI}2;4H${CSI}1K`), 'abcdefghij', '    EFGHIJ', '0123456789', 'klmnopqrst');
    shows(full(`${CSI}2;4H${CSI}2K`), 'abcdefghij', '', '0123456789', 'klmnopqrst');
  });

  test('in the display', () => {
    shows(full(`${CSI}2;4H${CSI}J`), 'abcdefghij', 'ABC');
    shows(full(`${CSI}2;4H${CSI}1J`), '', '    EFGHIJ', '0123456789', 'klmnopqrst');
    const s = full(`${CSI}2;4H${CSI}2J`);
    shows(s);
    assert.deepEqual(at(s), [1, 3]);
    shows(full(`${CSI}9J`), 'abcdefghij', 'ABCDEFGHIJ', '0123456789', 'klmnopqrst');
  });

  test('the history', () => {
    const s = screen(5, 2, `a\r\nb\r\nc${CSI}3J`);
    shows(s, 'b', 'c');
    assert.equal(s.history.length, 0);
    assert.equal(s.trims, 1);
  });

  test('characters', () => {
    shows(full(`${CSI}1;3H${CSI}2X`), 'ab  efghij', 'ABCDEFGHIJ', '0123456789', 'klmnopqrst');
    shows(full(`${CSI}1;3H${CSI}99X`), 'ab', 'ABCDEFGHIJ', '0123456789', 'klmnopqrst');
  });

  test('with the background', () => {
    for (const sequence of ['K', 'J', '2X', '@', 'L', 'M', 'P']) {
      const s = screen(4, 3, `${CSI}44m${CSI}${sequence}`);
      const cell = sequence === 'P' ? s.rows[0][3] : sequence === 'M' ? s.rows[2][0] : s.rows[0][0];
      assert.deepEqual(cell, { text: ' ', style: { fg: -1, bg: 4, flags: 0 } }, sequence);
    }
    const scrolled = screen(4, 2, `a\r\nb${CSI}1;44m\n`);
    assert.deepEqual(scrolled.rows[1][3].style, { fg: -1, bg: 4, flags: 0 });
  });
});

describe('inserting and deleting', () => {
  test('characters', () => {
    shows(full(`${CSI}1;3H${CSI}P`), 'abdefghij', 'ABCDEFGHIJ', '0123456789', 'klmnopqrst');
    shows(full(`${CSI}1;3H${CSI}3P`), 'abfghij', 'ABCDEFGHIJ', '0123456789', 'klmnopqrst');
    shows(full(`${CSI}1;3H${CSI}99P`), 'ab', 'ABCDEFGHIJ', '0123456789', 'klmnopqrst');
    shows(full(`${CSI}1;3H${CSI}@`), 'ab cdefghi', 'ABCDEFGHIJ', '0123456789', 'klmnopqrst');
    shows(full(`${CSI}1;3H${CSI}99@`), 'ab', 'ABCDEFGHIJ', '0123456789', 'klmnopqrst');
  });

  test('the insert mode', () => {
    shows(screen(6, 2, `abcd${CSI}1;2H${CSI}4hXY${CSI}4lZ`), 'aXYZcd');
    shows(screen(6, 2, `abcd${CSI}1;2H${CSI}4h世`), 'a世bcd');
    shows(screen(4, 2, `abcd${CSI}1;2H${CSI}4hXYZ`), 'aXYZ');
  });

  test('lines', () => {
    const inserted = full(`${CSI}2;4H${CSI}L`);
    shows(inserted, 'abcdefghij', '', 'ABCDEFGHIJ', '0123456789');
    assert.deepEqual(at(inserted), [1, 0]);
    shows(full(`${CSI}2;4H${CSI}2L`), 'abcdefghij', '', '', 'ABCDEFGHIJ');
    shows(full(`${CSI}2;4H${CSI}99L`), 'abcdefghij');
    const deleted = full(`${CSI}2;4H${CSI}M`);
    shows(deleted, 'abcdefghij', '0123456789', 'klmnopqrst');
    assert.deepEqual(at(deleted), [1, 0]);
    shows(full(`${CSI}2;4H${CSI}99M`), 'abcdefghij');
    assert.equal(deleted.history.length, 0);
  });

  test('lines in a region', () => {
    shows(full(`${CSI}2;3r${CSI}2;1H${CSI}L`), 'abcdefghij', '', 'ABCDEFGHIJ', 'klmnopqrst');
    shows(full(`${CSI}2;3r${CSI}2;1H${CSI}M`), 'abcdefghij', '0123456789', '', 'klmnopqrst');
    shows(full(`${CSI}2;3r${CSI}4;1H${CSI}L`), 'abcdefghij', 'ABCDEFGHIJ', '0123456789', 'klmnopqrst');
    shows(full(`${CSI}2;3r${CSI}1;1H${CSI}M`), 'abcdefghij', 'ABCDEFGHIJ', '0123456789', 'klmnopqrst');
  });
});

describe('scroll regions', () => {
  test('setting one moves the cursor home', () => {
    assert.deepEqual(at(full(`${CSI}2;3r`)), [0, 0]);
  });

  test('feeds scroll the region only', () => {
    const s = full(`${CSI}2;3r${CSI}3;1H\nX`);
    shows(s, 'abcdefghij', '0123456789', 'X', 'klmnopqrst');
    assert.equal(s.history.length, 0);
    shows(full(`${CSI}2;3r${CSI}2;1H${ESC}MX`), 'abcdefghij', 'X', 'ABCDEFGHIJ', 'klmnopqrst');
  });

  test('feeds outside of it do not scroll', () => {
    shows(full(`${CSI}2;3r${CSI}4;1H\nX`), 'abcdefghij', 'ABCDEFGHIJ', '0123456789', 'Xlmnopqrst');
    shows(full(`${CSI}2;3r${CSI}1;1H${ESC}MX`), 'Xbcdefghij', 'ABCDEFGHIJ', '0123456789', 'klmnopqrst');
  });

  test('a region from the top scrolls into the history', () => {
    const s = full(`${CSI}1;2r${CSI}2;1H\n`);
    shows(s, 'ABCDEFGHIJ', '', '0123456789', 'klmnopqrst');
    assert.deepEqual(past(s), ['abcdefghij']);
  });

  test('scrolling up and down', () => {
    shows(full(`${CSI}S`), 'ABCDEFGHIJ', '0123456789', 'klmnopqrst');
    shows(full(`${CSI}2T`), '', '', 'abcdefghij', 'ABCDEFGHIJ');
    shows(full(`${CSI}2;3r${CSI}S`), 'abcdefghij', '0123456789', '', 'klmnopqrst');
    shows(full(`${CSI}2;3r${CSI}T`), 'abcdefghij', '', 'ABCDEFGHIJ', 'klmnopqrst');
    shows(full(`${CSI}2;3r${CSI}99S`), 'abcdefghij', '', '', 'klmnopqrst');
  });

  test('movements stop at its bounds', () => {
    assert.deepEqual(at(full(`${CSI}2;3r${CSI}2;1H${CSI}9A`)), [1, 0]);
    assert.deepEqual(at(full(`${CSI}2;3r${CSI}2;1H${CSI}9B`)), [2, 0]);
    assert.deepEqual(at(full(`${CSI}2;3r${CSI}2;1H${CSI}9E`)), [2, 0]);
    assert.deepEqual(at(full(`${CSI}2;3r${CSI}4;1H${CSI}9B`)), [3, 0]);
    assert.deepEqual(at(full(`${CSI}2;3r${CSI}1;1H${CSI}9A`)), [0, 0]);
  });

  test('regions that are none', () => {
    shows(full(`${CSI}3;2r${CSI}4;1H\n`), 'ABCDEFGHIJ', '0123456789', 'klmnopqrst');
    shows(full(`${CSI}2;2r${CSI}4;1H\n`), 'ABCDEFGHIJ', '0123456789', 'klmnopqrst');
    shows(full(`${CSI}2;3r${CSI}r${CSI}4;1H\n`), 'ABCDEFGHIJ', '0123456789', 'klmnopqrst');
    shows(full(`${CSI}1;99r${CSI}4;1H\n`), 'ABCDEFGHIJ', '0123456789', 'klmnopqrst');
  });

  test('the origin mode', () => {
    assert.deepEqual(at(full(`${CSI}2;3r${CSI}?6h`)), [1, 0]);
    assert.deepEqual(at(full(`${CSI}2;3r${CSI}?6h${CSI}2;2H`)), [2, 1]);
    assert.deepEqual(at(full(`${CSI}2;3r${CSI}?6h${CSI}9;2H`)), [2, 1]);
    assert.deepEqual(at(full(`${CSI}2;3r${CSI}?6h${CSI}2d`)), [2, 0]);
    assert.deepEqual(at(full(`${CSI}2;3r${CSI}?6h${CSI}2;2H${CSI}?6l`)), [0, 0]);
    const s = full(`${CSI}2;3r${CSI}?6h${CSI}2;2H`);
    let reply = '';
    s.reply = (given) => (reply = given);
    s.write(`${CSI}6n`);
    assert.equal(reply, `${CSI}2;2R`);
  });
});

describe('renditions', () => {
  const style = (...sequences) => screen(10, 2, `${sequences.map((q) => `${CSI}${q}m`).join('')}x`).rows[0][0].style;
  const plain = { fg: -1, bg: -1, flags: 0 };

  test('flags', () => {
    for (const [set, flag, reset] of [
      [1, BOLD, 22], [2, DIM, 22], [3, ITALIC, 23], [4, UNDERLINE, 24], [7, INVERSE, 27], [9, STRIKE, 29], [21, UNDERLINE, 24], ['4:3', UNDERLINE, '4:0'],
    ]) {
      assert.deepEqual(style(set), { ...plain, flags: flag }, String(set));
      assert.deepEqual(style(set, reset), plain);
      assert.deepEqual(style(set, 0), plain);
      assert.deepEqual(style(set, ''), plain);
    }
    assert.equal(style('1;3;4').flags, BOLD | ITALIC | UNDERLINE);
    assert.equal(style('1;2;22').flags, 0);
    assert.equal(style('1;;4').flags, UNDERLINE);
  });

  test('colors', () => {
    for (let i = 0; i < 8; i++) {
      assert.equal(style(30 + i).fg, i);
      assert.equal(style(40 + i).bg, i);
      assert.equal(style(90 + i).fg, 8 + i);
      assert.equal(style(100 + i).bg, 8 + i);
    }
    assert.deepEqual(style('31;42', '39'), { ...plain, bg: 2 });
    assert.deepEqual(style('31;42', '49'), { ...plain, fg: 1 });
  });

  test('more colors', () => {
    for (const [sequence, wanted] of [
      ['38;5;196', { fg: 196 }], ['48;5;7', { bg: 7 }], ['38:5:196', { fg: 196 }], ['38;5;999', { fg: 255 }],
      ['38;2;1;2;3', { fg: 'rgb(1, 2, 3)' }], ['48;2;300;0;3', { bg: 'rgb(255, 0, 3)' }], ['38:2:1:2:3', { fg: 'rgb(1, 2, 3)' }], ['38:2::1:2:3', { fg: 'rgb(1, 2, 3)' }],
      ['38;5;196;1', { fg: 196, flags: BOLD }], ['38;2;1;2;3;48;5;4;4', { fg: 'rgb(1, 2, 3)', bg: 4, flags: UNDERLINE }],
      ['38:5:1;3', { fg: 1, flags: ITALIC }], ['38;6;1', { flags: BOLD }], ['38', {}], ['38;5', { fg: 0 }],
      // The color of underlines is not shown.
      ['58;5;1', {}], ['58;2;1;4;7', {}], ['58:2::1:4:7', {}], ['58;5;1;1', { flags: BOLD }],
    ]) {
      assert.deepEqual(style(sequence), { ...plain, ...wanted }, sequence);
    }
  });

  test('unknown ones are ignored', () => {
    assert.deepEqual(style('5;6;8;10;25;28;51;73;999'), plain);
  });

  test('colors in CSS', () => {
    assert.equal(colour(-1), null);
    assert.equal(colour(0), 'var(--t0)');
    assert.equal(colour(15), 'var(--t15)');
    assert.equal(colour(16), 'rgb(0, 0, 0)');
    assert.equal(colour(196), 'rgb(255, 0, 0)');
    assert.equal(colour(231), 'rgb(255, 255, 255)');
    assert.equal(colour(232), 'rgb(8, 8, 8)');
    assert.equal(colour(255), 'rgb(238, 238, 238)');
    assert.equal(colour('rgb(1, 2, 3)'), 'rgb(1, 2, 3)');
  });
});

describe('character sets', () => {
  test('line drawing', () => {
    shows(screen(20, 2, `${ESC}(0lqkxmj${ESC}(Bq`), '┌─┐│└┘q');
    shows(screen(20, 2, `${ESC}(0afg~y{${ESC}(B`), '▒°±·≤π');
    shows(screen(20, 2, `${ESC}(0ABC1${ESC}(B`), 'ABC1');
  });

  test('shifts', () => {
    shows(screen(20, 2, `${ESC})0q\u000eq\u000fq`), 'q─q');
    shows(screen(20, 2, `${ESC})Bq\u000eq\u000fq`), 'qqq');
  });
});

describe('the alternate screen', () => {
  for (const mode of [47, 1047, 1049]) {
    test(`mode ${mode}`, () => {
      const s = screen(10, 3, `one\r\ntwo${CSI}?${mode}h`);
      assert.ok(s.alternate);
      shows(s);
      s.write(`${CSI}HALT\r\n\n\n\n\n`);
      assert.equal(s.history.length, 0);
      s.write(`${CSI}?${mode}l`);
      assert.ok(!s.alternate);
      shows(s, 'one', 'two');
    });
  }

  test('1049 keeps the cursor', () => {
    const s = screen(10, 3, `one\r\ntwo${CSI}31m${CSI}?1049h${CSI}0m${CSI}HALT${CSI}?1049lX`);
    shows(s, 'one', 'twoX');
    assert.equal(s.rows[1][3].style.fg, 1);
  });

  test('set twice, it is set once', () => {
    const s = screen(10, 3, `one${CSI}?1049h${CSI}2;2H${CSI}?1049h${CSI}?1049l${CSI}?1049lX`);
    shows(s, 'oneX');
  });

  test('a saved cursor belongs to its screen', () => {
    const s = screen(10, 3, `ab${ESC}7${CSI}?47h${CSI}3;5H${ESC}7${CSI}?47l${ESC}8X`);
    shows(s, 'abX');
  });

  test('modes', () => {
    const s = screen(10, 3, `${CSI}?1;25;2004h`);
    assert.deepEqual([s.application, s.cursorShown, s.brackets], [true, true, true]);
    s.write(`${CSI}?1;25;2004l`);
    assert.deepEqual([s.application, s.cursorShown, s.brackets], [false, false, false]);
  });
});

describe('resets', () => {
  const broken = `${CSI}?1049h${CSI}?7l${CSI}?25l${CSI}?1h${CSI}?2004h${CSI}4h${CSI}2;3r${CSI}?6h${CSI}1;31;44m${ESC}(0${CSI}3gq`;

  test('a full one', () => {
    const s = screen(4, 4, `${broken}${ESC}c`);
    shows(s);
    assert.deepEqual(at(s), [0, 0]);
    assert.deepEqual([s.alternate, s.cursorShown, s.application, s.brackets], [false, true, false, false]);
    s.write('qqqqq\r\n\n\nz');
    assert.deepEqual(text(s), ['q', '', '', 'z']);
    assert.deepEqual(past(s), ['qqqq']);
    assert.deepEqual(s.rows[3][0].style, { fg: -1, bg: -1, flags: 0 });
    assert.deepEqual(s.rows[2][0].style, { fg: -1, bg: -1, flags: 0 });
  });

  test('after a full line', () => {
    shows(screen(3, 2, `abc${ESC}cx`), 'x');
  });

  test('a soft one', () => {
    const s = screen(10, 4, `ab${CSI}4h${CSI}2;3r${CSI}?6h${CSI}1m${ESC}(0${CSI}?25l${CSI}!p${CSI}1;2Hq`);
    shows(s, 'aq');
    assert.ok(s.cursorShown);
    assert.equal(s.rows[0][1].style.flags, 0);
  });
});

describe('sizes', () => {
  test('wider and narrower', () => {
    const s = full();
    s.resize(12, 4);
    shows(s, 'abcdefghij', 'ABCDEFGHIJ', '0123456789', 'klmnopqrst');
    s.resize(3, 4);
    shows(s, 'abc', 'ABC', '012', 'klm');
    assert.deepEqual(at(s), [3, 2]);
  });

  test('half a character at the edge', () => {
    const s = screen(4, 2, 'a世');
    s.resize(2, 2);
    shows(s, 'a');
  });

  test('a cursor after the last column has room in a wider line', () => {
    const s = screen(3, 2, 'abc');
    s.resize(6, 2);
    s.write('d');
    shows(s, 'abcd');
  });

  test('lower: empty lines below the cursor go first', () => {
    const s = screen(5, 4, 'a\r\nb');
    s.resize(5, 2);
    shows(s, 'a', 'b');
    assert.equal(s.history.length, 0);
    assert.deepEqual(at(s), [1, 1]);
  });

  test('lower: lines above the cursor go to the history', () => {
    const s = screen(5, 4, 'a\r\nb\r\nc\r\nd');
    s.resize(5, 2);
    shows(s, 'c', 'd');
    assert.deepEqual(past(s), ['a', 'b']);
    assert.deepEqual(at(s), [1, 1]);
  });

  test('higher', () => {
    const s = screen(5, 2, 'a\r\nb');
    s.resize(5, 4);
    shows(s, 'a', 'b');
    s.write('\r\nc\r\nd\r\ne');
    shows(s, 'b', 'c', 'd', 'e');
  });

  test('the region is the whole screen again', () => {
    const s = full(`${CSI}2;3r`);
    s.resize(10, 5);
    s.write(`${CSI}5;1H\n`);
    assert.deepEqual(past(s), ['abcdefghij']);
  });

  test('the main screen behind the alternate one', () => {
    const s = screen(5, 4, `a\r\nb\r\nc\r\nd${CSI}?1049h`);
    s.resize(3, 2);
    shows(s);
    s.write(`${CSI}?1049lX`);
    shows(s, 'c', 'dX');
    assert.deepEqual(past(s), ['a', 'b']);
  });
});
