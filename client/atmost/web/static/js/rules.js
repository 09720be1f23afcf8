// What a name, a number, a rate may be: the rules of the daemon, told while one types. The daemon has
// the last word; its refusal is shown as it says it. Pure.

export const NAME_CHARS_MAX = 200;
export const COUNT_MAX = Number.MAX_SAFE_INTEGER;
const RATE = /^([0-9]+\.?[0-9]*|\.[0-9]+)\/(s|sec|second|min|minute|h|hour|d|day)$/;
const NUMBER = /^([0-9]+\.?[0-9]*|\.[0-9]+)(e-?[0-9]+)?$/i;
const CONTROL = /[\u0000-\u001f\u007f-\u009f]/;

// Each gives a sentence about what is wrong, or "".

export function wrongName(name) {
  if (name === "") return "A name is needed.";
  const bad = /[/%&><]/.exec(name);
  if (bad) return `A name has none of / % & > <, and this one has ${bad[0]}.`;
  if (CONTROL.test(name)) return "A name has no control characters (a tab, a line break, …).";
  const length = [...name].length;
  if (length > NAME_CHARS_MAX) return `A name has at most ${NAME_CHARS_MAX} characters; this one has ${length}.`;
  return "";
}

export function wrongLimit(text) {
  if (text.trim() === "") return "A number of slots is needed, from 0 on.";
  if (!/^[0-9]+$/.test(text.trim())) return "A whole number, from 0 on.";
  if (Number(text) > COUNT_MAX) return `At most ${COUNT_MAX}.`;
  return "";
}

// What the field "comes back" means, as the API takes it: a rate such as 100/min, slots a second such as 0.5,
// or nothing. null: neither.
export function decayOf(text) {
  const word = text.trim().replace(/\s*\/\s*/, "/");
  if (word === "") return { slot_decay_per_second: 0 };
  if (RATE.test(word)) return { rate: word };
  const number = NUMBER.test(word) ? Number(word) : NaN;
  return Number.isFinite(number) ? { slot_decay_per_second: number } : null;
}

export function wrongDecay(text) {
  return decayOf(text) ? "" : "A rate such as 100/min (/s, /min, /h or /day), or slots a second such as 0.5; empty for none.";
}
