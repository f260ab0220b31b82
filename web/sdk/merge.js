// @ts-check
/**
 * How copies of the same thing become one: pure functions, so that any order of arrival ends in the same state.
 *
 * @typedef {import('./types.js').LocalMessage} LocalMessage
 * @typedef {import('./types.js').Message} Message
 * @typedef {import('./types.js').Reactions} Reactions
 * @typedef {import('./types.js').Conversation} Conversation
 * @typedef {import('./types.js').ConversationHead} ConversationHead
 * @typedef {import('./types.js').LocalHead} LocalHead
 */

/**
 * Orders ids. They are 64-bit numbers in decimal, too large for a JavaScript number.
 * @param {string} a
 * @param {string} b
 * @returns {number} negative, 0 or positive
 */
export function compareIds(a, b) {
  return a.length - b.length || (a < b ? -1 : a > b ? 1 : 0);
}

/**
 * @param {Reactions|undefined} a
 * @param {Reactions|undefined} b
 * @returns {Reactions|undefined} the newer one
 */
export function mergeReactions(a, b) {
  if (!a || !b) return a ?? b;
  return compareIds(b.version, a.version) > 0 ? b : a;
}

/**
 * Two copies of a message: content by `version`, reactions by their own version.
 * @param {LocalMessage|undefined} known
 * @param {LocalMessage} incoming
 * @returns {LocalMessage}
 */
export function mergeMessage(known, incoming) {
  if (!known) return incoming;
  const order = compareIds(incoming.version, known.version);
  // A copy made from an acknowledgement gives way to the real one: the server may have changed the text.
  const newer = order > 0 || (order === 0 && !!known.provisional && !incoming.provisional);
  const base = newer ? incoming : known;
  /** @type {LocalMessage} */
  const merged = { ...base };
  const reactions = mergeReactions(known.reactions, incoming.reactions);
  if (reactions) merged.reactions = reactions;
  const previous = mergePrevious(known, incoming);
  if (previous !== undefined) merged.prev_seq = previous;
  const skipped = known.skipped ?? incoming.skipped;
  if (skipped) merged.skipped = skipped;
  return merged;
}

/**
 * What is known of the message before. A known link stays unless the other copy brings one.
 * @param {LocalMessage} known
 * @param {LocalMessage} incoming
 */
function mergePrevious(known, incoming) {
  return incoming.prev_seq ?? known.prev_seq;
}

/**
 * Two copies of a conversation: the higher version wins, read and delivery marks never go back.
 * @param {Conversation|undefined} known
 * @param {Conversation} incoming
 * @returns {Conversation}
 */
export function mergeConversation(known, incoming) {
  if (!known) return incoming;
  const base = compareIds(incoming.version, known.version) >= 0 ? incoming : known;
  const other = base === incoming ? known : incoming;
  const marks = new Map(other.members.map((member) => [member.user_id, member]));
  const members = base.members.map((member) => {
    const mark = marks.get(member.user_id);
    return mark ? raise(member, mark.read_seq, mark.delivered_seq) : member;
  });
  return { ...base, members };
}

/**
 * A member with marks at least this high. Read implies delivered.
 * @param {import('./types.js').Member} member
 * @param {number} read
 * @param {number} delivered
 */
function raise(member, read, delivered) {
  const readSeq = Math.max(member.read_seq, read);
  const deliveredSeq = Math.max(member.delivered_seq, delivered, readSeq);
  if (readSeq === member.read_seq && deliveredSeq === member.delivered_seq) return member;
  return { ...member, read_seq: readSeq, delivered_seq: deliveredSeq };
}

/**
 * A conversation after a read or delivery mark.
 * @param {Conversation} conversation
 * @param {'read'|'delivered'} kind
 * @param {{user_id: string, seq: number}} receipt
 * @returns {Conversation} the same object if nothing changed
 */
export function applyMark(conversation, kind, receipt) {
  let changed = false;
  const members = conversation.members.map((member) => {
    if (member.user_id !== receipt.user_id) return member;
    const raised = raise(member, kind === 'read' ? receipt.seq : 0, receipt.seq);
    changed ||= raised !== member;
    return raised;
  });
  return changed ? { ...conversation, members } : conversation;
}

/**
 * @param {ConversationHead} head
 * @returns {LocalHead}
 */
export function localHead(head) {
  return {
    conversation_id: head.conversation.conversation_id,
    conversation: head.conversation,
    ...(head.last_message ? { last_message: head.last_message } : {}),
    last_seq: head.last_seq,
    read_seq: head.read_seq,
  };
}

/**
 * Two copies of what a device keeps of a conversation.
 * @param {LocalHead|undefined} known
 * @param {LocalHead} incoming
 * @returns {LocalHead}
 */
export function mergeHead(known, incoming) {
  if (!known) return incoming;
  const readSeq = Math.max(known.read_seq, incoming.read_seq);
  const pending = Math.max(known.pending_read ?? 0, incoming.pending_read ?? 0);
  const last = mergeLast(known.last_message, incoming.last_message);
  return {
    conversation_id: known.conversation_id,
    conversation: mergeConversation(known.conversation, incoming.conversation),
    ...(last ? { last_message: last } : {}),
    last_seq: Math.max(known.last_seq, incoming.last_seq),
    read_seq: readSeq,
    ...(pending > 0 ? { pending_read: pending } : {}),
  };
}

/**
 * The newer message, or the merged copies of one.
 * @param {LocalMessage|undefined} known
 * @param {LocalMessage|undefined} incoming
 */
export function mergeLast(known, incoming) {
  if (!known || !incoming) return known ?? incoming;
  if (known.message_id === incoming.message_id) return mergeMessage(known, incoming);
  return incoming.seq > known.seq ? incoming : known;
}

/**
 * How many messages wait behind the own read mark.
 * @param {LocalHead} head
 */
export function unread(head) {
  return Math.max(0, head.last_seq - head.read_seq);
}
