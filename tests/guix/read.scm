;;; Reads all forms of the file in the first argument, and prints the name and the second element of each.

;; Guix adds the syntax of G-expressions to Guile's reader: gexp, ungexp, ungexp-splicing, ungexp-native.
(define (extend character name)
  (read-hash-extend character (lambda (_ port) (list name (read port)))))
(extend #\~ 'gexp)
(extend #\$ 'ungexp)
(extend #\+ 'ungexp-native)

(call-with-input-file (cadr (command-line))
  (lambda (port)
    (let loop ((form (read port)))
      (unless (eof-object? form)
        (if (pair? form)
            (let ((second (cadr form)))
              (format #t "~a ~a~%" (car form) (if (pair? second) (car second) second)))
            (format #t "~a~%" form))
        (loop (read port))))))
