// What the types of juggler.js and of `juggler types` accept and refuse. Only compiled, never run.
import { AnyFunctions, CallFailed, Client, Stream } from "./juggler.js";
import type { Card, Functions, Item, ItemResult, Size } from "./functions.js";
import type { Functions as Hostile } from "./hostile.js";

type Equal<A, B> = (<T>() => T extends A ? 1 : 2) extends <T>() => T extends B ? 1 : 2 ? true : false;
function same<A, B>(equal: Equal<A, B>): void {}

const client = new Client<Functions>("/ws", { timeout: 5 });

export async function right(signal: AbortSignal): Promise<void> {
  const price = await client.call("shop.price", { name: "tea", count: 2 }, { timeout: 5, signal });
  same<typeof price, number>(true);
  await client.call("shop.price", ["tea"]);
  await client.call("shop.price", ["tea", 2]);
  await client.call("shop.price", "tea");

  const card: Card = { type: "card", number: "1" };
  const item: Item = { name: "tea", sizes: ["small"], parent: { name: "shelf" }, price: "1.50" };
  const ordered = await client.call("shop.order", { item, paid: card, at: [1] });
  same<typeof ordered, ItemResult>(true);
  const sizes: Size[] = ordered.sizes;
  const cost: number = ordered.price;
  // What was received can be sent again.
  await client.call("shop.order", { item: ordered, paid: { type: "cash", amount: 3 }, at: null });

  const words = await client.call("shop.describe", "green tea");
  same<typeof words, string[]>(true);
  const stream = client.stream("shop.describe", ["green tea"], { window: 3 });
  for await (const word of stream) same<typeof word, string>(true);
  const result = await stream.result();
  same<typeof result, { [name: string]: number }>(true);

  const count: number = await client.call("shop.count");
  await client.call("shop.count", null, { signal });
  await client.call("shop.count", []);
  await client.call("shop.count", {});
  const all = await client.call("shop.all");
  same<typeof all, ItemResult[]>(true);
  await client.call("shop.all", { sizes: ["large"] });
  await client.call("shop.total", [1, 2.5]);
  await client.call("shop.mine", { kind: "old", quick: true });
  await client.call("shop.anything", { a: new Date(), b: [] });
  await client.call("shop.anything", [1]);
  const raw: string = await client.call("shop.raw", { of: ["any", "shape"] });
  await client.call("weird \"quoted\" 'uri' \\ ключ ${x}\u2028 */", {
    odd: { "content-type": "a", class: 1, ключ: "b", "a b": { "a b": null }, '"': 2 },
  });
  await client.call("weird.names", [{ x: 1 }, { x: 1 }, { x: 1 }, { weight: 1.5 }, { x: 1 }]);
  await client.publish("news", { any: "event" });
  for await (const { args } of client.subscribe<number>("news")) same<typeof args, number>(true);
}

export async function wrong(): Promise<void> {
  // @ts-expect-error: no such function
  await client.call("shop.prise", "tea");
  // @ts-expect-error: no such function, with a type for the result
  await client.call<number>("shop.prise", "tea");
  // @ts-expect-error: arguments are missing
  await client.call("shop.price");
  // @ts-expect-error: a parameter is missing
  await client.call("shop.price", { count: 1 });
  // @ts-expect-error: a parameter of another type
  await client.call("shop.price", ["tea", "2"]);
  // @ts-expect-error: too many parameters
  await client.call("shop.price", ["tea", 2, 3]);
  // @ts-expect-error: an unknown parameter
  await client.call("shop.price", { name: "tea", cuont: 2 });
  // @ts-expect-error: the only argument, of another type
  await client.call("shop.price", 2);
  // @ts-expect-error: a function without parameters
  await client.call("shop.count", [1]);
  // @ts-expect-error: a function without parameters
  await client.call("shop.count", { a: 1 });
  // @ts-expect-error: an object that is not one of the two
  await client.call("shop.order", { item: { name: "tea" }, paid: { type: "cheque" } });
  // @ts-expect-error: no member of the enum
  await client.call("shop.all", { sizes: ["medium"] });
  // @ts-expect-error: the function takes the array whole
  await client.call("shop.total", [[1, 2.5]]);
  // @ts-expect-error: the result is a number
  const text: string = await client.call("shop.price", "tea");
  // @ts-expect-error: a part is a string
  for await (const part of client.stream("shop.describe", "tea")) part.toFixed();
  // @ts-expect-error: an unknown option
  await client.call("shop.price", "tea", { timeuot: 1 });
  // @ts-expect-error: the caller is no parameter
  await client.call("shop.mine", { kind: "old", who: "ann" });
  // @ts-expect-error: functions have arguments
  new Client<{ "shop.price": number }>("/ws");
}

export async function untyped(): Promise<void> {
  const client = new Client("/ws");
  same<typeof client, Client<AnyFunctions>>(true);
  const text: string = await client.call("any.function", [1], { timeout: 1 });
  const price = await client.call<number>("shop.price", "tea");
  same<typeof price, number>(true);
  const stream = client.stream<string, number>("shop.describe", "tea");
  same<typeof stream, Stream<string, number>>(true);
  for await (const part of client.stream("shop.describe")) part.anything;
  class Counting extends Client {
    calls = 0;
    override call(uri: string, args?: any): Promise<any> {
      this.calls++;
      return super.call(uri, args);
    }
  }
  await new Counting("/ws").call("any.function");
  // @ts-expect-error: a URI is a string
  await client.call(1);
}

export async function mixed(typed: Client<Functions>, hostile: Client<Hostile>): Promise<void> {
  const anything: Client = typed as Client<any>;
  await anything.call("no.such", 1);
  await hostile.call("any", { x: null });
  try {
    await typed.call("shop.count");
  } catch (error) {
    if (error instanceof CallFailed) same<typeof error.code, number | string | null>(true);
  }
}
